"""Text from a model, streamed as it comes: with the native engine, or with transformers' own decoding loop."""

from collections.abc import Callable
from typing import Any

import torch
from transformers import TextStreamer

from submodel.errors import SubmodelError
from submodel.runtime.forward import end_tokens, prefill, step
from submodel.runtime.load import Loaded
from submodel.runtime.sample import pick


class _Stream(TextStreamer):
    def __init__(self, tokenizer: Any, write: Callable[[str], Any]):
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._write = write

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
        write: gets the text piece by piece.

    Returns:
        The new text, without special tokens.

    Raises:
        SubmodelError: a prompt without a token, or more tokens than the model's context.
    """
    tokenizer = loaded.tokenizer
    if chat and tokenizer.chat_template:
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
        return _decode(loaded, ids[0].tolist(), max_tokens, temperature, top_p, seed, _Stream(tokenizer, write))
    torch.manual_seed(seed)
    sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p} if temperature else {"do_sample": False}
    with torch.inference_mode():
        out = loaded.model.generate(  # type: ignore[operator]
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_tokens,
            pad_token_id=tokenizer.eos_token_id,
            streamer=_Stream(tokenizer, write),
            **sampling,
        )
    return tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)


@torch.inference_mode()
def _decode(
    loaded: Loaded, prompt: list[int], max_tokens: int, temperature: float, top_p: float, seed: int, stream: _Stream
) -> str:
    generator = torch.Generator().manual_seed(seed)
    ends, tokens = end_tokens(loaded), []
    slots, logits = prefill(loaded, prompt, len(prompt) + max_tokens)
    stream.put(torch.tensor(prompt))  # skipped
    while True:
        token = pick(logits[0], temperature, top_p, 0, generator) if temperature else int(logits[0].argmax())
        tokens.append(token)
        stream.put(torch.tensor([token]))
        if token in ends or len(tokens) == max_tokens:
            break
        logits = step(loaded, slots, [token])
    stream.end()
    return loaded.tokenizer.decode(tokens, skip_special_tokens=True)
