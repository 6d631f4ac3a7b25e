"""Run a model: continue one prompt, or answer over HTTP."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from submodel.errors import SubmodelError
from submodel.router import open_router
from submodel.runtime import Loaded, load
from submodel.runtime import generate as continue_prompt


def generate(
    model: str | Loaded,
    prompt: str,
    *,
    max_tokens: int = 128,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    chat: bool = False,
    suffix: str | None = None,
    format: str | None = None,
    device: str = "cpu",
    base: str | None = None,
    trust_remote_code: bool = False,
    write: Callable[[str], Any] = lambda text: None,
) -> str:
    """Continue a prompt.

    Args:
        model: what `load` returned; or a reference (a directory, hub id, .gguf file or `STORE@NAME`), which is loaded
            for this prompt alone, with `format`, `device`, `base` and `trust_remote_code`.
        prompt: raw text, or the user's message if `chat`.
        max_tokens: new tokens at most.
        temperature: 0 for greedy decoding.
        top_p: nucleus to sample from.
        seed: of the sampling.
        chat: put the prompt into the model's chat template.
        suffix: what comes after: the text between the two is filled in.
        write: gets the text piece by piece.

    Returns:
        The new text, without special tokens.

    Raises:
        SubmodelError: no such model, a prompt without a token, more tokens than the model's context, or a suffix for a
            chat or for a model that does not fill in.
    """
    if isinstance(model, str):
        model = load(model, device=device, base=base, trust_remote_code=trust_remote_code, weight_format=format)
    return continue_prompt(
        model,
        prompt,
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        chat=chat,
        suffix=suffix,
        write=write,
    )


def serve(
    store: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    format: str = "bf16",
    memory_bytes: int | None = None,
    api_key: str | None = None,
    default: str = "base",
    upstreams: Sequence[str] = (),
    upstream_key: str | None = None,
    requests: int | None = None,
    max_tokens: int | None = None,
    base: str | None = None,
    trust_remote_code: bool = False,
    ready: Callable[[str, list[str]], Any] = lambda url, models: None,
    say: Callable[[str], Any] = lambda line: None,
) -> None:
    """Answer OpenAI's API with the right sub-model of a store for each request; returns when it is stopped (Ctrl-C).

    Args:
        store: the store.
        host, port: where to listen; port 0 is any free one.
        format: how weights are kept: bf16, int8, int4, shared or shared-int8.
        memory_bytes: for weights and caches; half of the machine's if None.
        api_key: that clients must have; needed where others reach the address.
        default: who answers when the router is unsure.
        upstreams: NAME=URL of OpenAI-compatible engines, each with the sub-model that it holds; `upstream_key`: their
            key.
        requests: answered or waiting at once; 128 if None.
        max_tokens: generated for one answer at most; 4096 if None.
        base: where the store's base is now, if it has moved.
        trust_remote_code: let code that is shipped with the base run.
        ready: called with the server's URL and the names of its models once it listens.
        say: called with a line for whoever runs it.

    Raises:
        SubmodelError: no such store, an address without a key, a port that is taken, or the extra is not installed.
    """
    try:
        from submodel.serve.access import Limits
        from submodel.serve.registry import open_registry
        from submodel.serve.server import Server, Settings
        from submodel.serve.upstream import parse_upstream
    except ModuleNotFoundError as error:
        raise SubmodelError(f"serve needs {error.name}: pip install 'submodel[serve]'") from error

    limits = Limits()
    if requests:
        limits = replace(limits, requests=requests)
    if max_tokens:
        limits = replace(limits, tokens=max_tokens)
    settings = Settings(
        host=host,
        port=port,
        memory_bytes=memory_bytes,
        api_key=api_key,
        default=default,
        upstreams=dict(parse_upstream(spec) for spec in upstreams),
        upstream_key=upstream_key,
        limits=limits,
    )
    registry = open_registry(Path(store), format, base, trust_remote_code)
    router = open_router(registry.store, registry.base)
    if router.missing:
        say(f"without statistics for routing: {', '.join(router.missing)}; see submodel route --fit")
    server = Server(registry, router.choose, settings)
    ready(server.url, [*registry.names, *settings.upstreams])
    server.run()
