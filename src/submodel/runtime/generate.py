"""Text from a model, streamed as it comes: with the native engine, or with transformers' own decoding loop."""

from collections.abc import Callable
from typing import Any

import torch
from transformers import TextStreamer

from submodel.errors import SubmodelError
from submodel.runtime.forward import end_tokens, prefill, step
from submodel.runtime.infill import Infill
from submodel.runtime.load import Loaded
from submodel.runtime.sample import pick


class _Stream(TextStreamer):
    """Writes text as it comes, without the tokens that end it."""

    def __init__(self, tokenizer: Any, write: Callable[[str], Any], ends: frozenset[int]):
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._write, self._ends = write, ends

    def put(self, value: torch.Tensor) -> None:
        if self.next_tokens_are_prompt or not self._ends.intersection(value.flatten().tolist()):
            super().put(value)

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        self._write(text)


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
    tokenizer = loaded.tokenizer
    ends = end_tokens(loaded)
    if suffix is not None:
        infill = Infill(tokenizer)
        if chat or not infill:
            raise SubmodelError(
                "a suffix: a chat does not fill in: give one of the two"
                if chat
                else f"a suffix: {loaded.reference} has no fill-in-the-middle tokens: give the prompt alone"
            )
        ids, ends = torch.tensor([infill.around(prompt, suffix)]), ends | infill.ends
    elif chat and tokenizer.chat_template:
        message = [{"role": "user", "content": prompt}]
        ids = tokenizer.apply_chat_template(message, add_generation_prompt=True, return_tensors="pt")["input_ids"]
    else:
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    if not ids.shape[1]:
        raise SubmodelError(f"prompt {prompt!r}: no token in it: give text to continue")
    if loaded.base.context is not None and ids.shape[1] + max_tokens > loaded.base.context:
        raise SubmodelError(
            f"{ids.shape[1]:,} tokens of the prompt and {max_tokens:,} new ones: {loaded.reference} takes "
            f"{loaded.base.context:,} in all: give a shorter prompt or a smaller --max-tokens"
        )
    ids = ids.to(loaded.model.device).long()
    if loaded.engine:
        return _decode(loaded, ids[0].tolist(), max_tokens, temperature, top_p, seed, ends, write)
    torch.manual_seed(seed)
    sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p} if temperature else {"do_sample": False}
    with torch.inference_mode():
        out = loaded.model.generate(  # type: ignore[operator]
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_tokens,
            pad_token_id=tokenizer.eos_token_id,
            eos_token_id=sorted(ends) or None,
            streamer=_Stream(tokenizer, write, ends),
            **sampling,
        )
    tokens = out[0, ids.shape[1] :].tolist()
    return tokenizer.decode(tokens[:-1] if tokens[-1] in ends else tokens, skip_special_tokens=True)


@torch.inference_mode()
def _decode(
    loaded: Loaded,
    prompt: list[int],
    max_tokens: int,
    temperature: float,
    top_p: float,
    seed: int,
    ends: frozenset[int],
    write: Callable[[str], Any],
) -> str:
    generator = torch.Generator().manual_seed(seed)
    stream, tokens = _Stream(loaded.tokenizer, write, ends), []
    slots, logits = prefill(loaded, prompt, len(prompt) + max_tokens)
    stream.put(torch.tensor(prompt))  # skipped
    while True:
        token = pick(logits[0], temperature, top_p, 0, generator) if temperature else int(logits[0].argmax())
        if token in ends:
            break
        tokens.append(token)
        stream.put(torch.tensor([token]))
        if len(tokens) == max_tokens:
            break
        logits = step(loaded, slots, [token])
    stream.end()
    return loaded.tokenizer.decode(tokens, skip_special_tokens=True)
