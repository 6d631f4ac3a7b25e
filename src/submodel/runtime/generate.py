"""One prompt continued, its text given out as it comes."""

from collections.abc import Callable
from typing import Any

import torch

from submodel.errors import SubmodelError
from submodel.runtime.continuation import Request, Sequence
from submodel.runtime.forward import prefill
from submodel.runtime.load import Loaded
from submodel.runtime.scheduler import Scheduler
from submodel.runtime.text import Prompt, Prompts


@torch.inference_mode()
def generate(
    loaded: Loaded,
    prompt: str,
    *,
    max_tokens: int = 128,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    chat: bool = False,
    suffix: str | None = None,
    write: Callable[[str], Any] = lambda text: None,
) -> str:
    """Continue a prompt.

    Args:
        loaded: the model.
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
        SubmodelError: a prompt without a token, more tokens than the model's context, or a suffix for a chat or for a
            model that does not fill in.
    """
    written = _written(loaded, prompt, chat, suffix)
    count = len(written.tokens)
    if not count:
        raise SubmodelError(f"prompt {prompt!r}: no token in it: give text to continue")
    if loaded.base.context is not None and count + max_tokens > loaded.base.context:
        raise SubmodelError(
            f"{count:,} tokens of the prompt and {max_tokens:,} new ones: {loaded.reference} takes "
            f"{loaded.base.context:,} in all: give a shorter prompt or a smaller --max-tokens"
        )
    request = Request(
        "", written.tokens, max_tokens, seeds=(seed,), temperature=temperature, top_p=top_p, ends=written.ends
    )
    sequence = Sequence(loaded, request, write=lambda piece: write(piece.text) if piece.text else None)
    cache, logits = prefill(loaded, list(request.prompt), sequence.longest, sequence.more)
    scheduler = Scheduler(loaded, cache)
    scheduler.start(sequence, logits[0])
    while scheduler.running:
        scheduler.step()
    return sequence.text


def _written(loaded: Loaded, prompt: str, chat: bool, suffix: str | None) -> Prompt:
    prompts = Prompts(loaded.tokenizer)
    if suffix is not None and chat:
        raise SubmodelError("a suffix: a chat does not fill in: give one of the two")
    if suffix is not None:
        if not prompts.has_infill:
            raise SubmodelError(f"a suffix: {loaded.reference} has no fill-in-the-middle tokens: give the prompt alone")
        return prompts.infill(prompt, suffix)
    return prompts.chat([("user", prompt)]) if chat and prompts.has_template else prompts.text(prompt)
