"""A run that is killed where a test says, once, and may be started again."""

from typing import Any

import pytest


class KilledOnce:
    """Takes the place of a function or a method, counts its calls, and is a Ctrl-C in place of one of them.

    Args:
        monkeypatch: puts it there.
        owner, name: of the function.
        call: which call, from 1, is the end.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, call: int):
        self.calls, self._left, own = 0, call, getattr(owner, name)

        def instead(*given: Any, **more: Any) -> Any:
            self.calls += 1
            self._left -= 1
            if not self._left:
                raise KeyboardInterrupt
            return own(*given, **more)

        monkeypatch.setattr(owner, name, instead)
