"""What one client may take, so that none can stall the others."""

import hmac
from dataclasses import dataclass
from ipaddress import ip_address

from submodel.errors import SubmodelError
from submodel.serve.refusal import Refusal


@dataclass(frozen=True)
class Limits:
    """Attributes:
    body_bytes: of a request.
    body_s, write_s: to send a request's body, and to take a piece of the answer.
    requests: that are answered or wait, all models together; more get 429.
    wait_s: for memory to load a model into; then 503.
    answer_s: for a whole answer.
    tokens: generated for one choice.
    choices: answers to one request (prompts x n).
    connections: open at once.
    """

    body_bytes: int = 1 << 20
    body_s: float = 30
    write_s: float = 60
    requests: int = 128
    wait_s: float = 60
    answer_s: float = 600
    tokens: int = 4096
    choices: int = 16
    connections: int = 512


class Door:
    """Counts who is inside."""

    def __init__(self, most: int):
        self._most = most
        self.inside = 0

    def enter(self) -> None:
        """Raises Refusal (429) when it is full; each `enter` has its `leave`."""
        if self.inside >= self._most:
            raise Refusal(
                429, f"{self._most} requests are being answered or wait: try again", "overloaded", retry_after_s=1
            )
        self.inside += 1

    def leave(self) -> None:
        self.inside -= 1


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def check_address(host: str, api_key: str | None) -> None:
    """Raises SubmodelError for an address that others reach, unless there is a key."""
    if not is_loopback(host) and not api_key:
        raise SubmodelError(f"--host {host}: others can reach it: give an --api-key that they must have")


def key_fits(given: str | None, api_key: str) -> bool:
    """Whether an Authorization header bears the key; takes as long for every wrong one."""
    scheme, _, key = (given or "").partition(" ")
    fits = hmac.compare_digest(key.strip().encode("utf-8", "replace"), api_key.encode())
    return scheme.lower() == "bearer" and fits
