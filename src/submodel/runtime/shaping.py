"""What a model's generation_config.json says of choosing tokens, applied wherever a token is chosen.

Its penalties and bans hold for greedy decoding too; where a request samples, its cuts (top-k, top-p, min-p and the
like) hold as well, unless the request brings its own. `transformers`' processors do the arithmetic, in its order.
Temperature, do_sample and lengths are the request's alone: decoding is greedy unless it asks for more.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from transformers.generation import logits_process as process

from submodel.errors import SubmodelError

# key -> its processor from the value, the prompt's length, the end tokens and the device; in transformers' order
_Make = Callable[[Any, int, list[int], torch.device], process.LogitsProcessor]
_PENALTIES: dict[str, _Make] = {
    "sequence_bias": lambda value, start, ends, device: process.SequenceBiasLogitsProcessor(value),
    "repetition_penalty": lambda value, start, ends, device: process.RepetitionPenaltyLogitsProcessor(float(value)),
    "no_repeat_ngram_size": lambda value, start, ends, device: process.NoRepeatNGramLogitsProcessor(value),
    "bad_words_ids": lambda value, start, ends, device: process.NoBadWordsLogitsProcessor(value, ends),
    "min_length": lambda value, start, ends, device: process.MinLengthLogitsProcessor(value, ends, str(device)),
    "min_new_tokens": lambda value, start, ends, device: process.MinNewTokensLengthLogitsProcessor(
        start, value, ends, str(device)
    ),
    "suppress_tokens": lambda value, start, ends, device: process.SuppressTokensLogitsProcessor(value, str(device)),
    "begin_suppress_tokens": lambda value, start, ends, device: process.SuppressTokensAtBeginLogitsProcessor(
        value, start, str(device)
    ),
}
_CUTS: dict[str, Callable[[Any], process.LogitsProcessor]] = {
    "top_k": process.TopKLogitsWarper,
    "top_p": process.TopPLogitsWarper,
    "min_p": process.MinPLogitsWarper,
    "typical_p": process.TypicalLogitsWarper,
    "epsilon_cutoff": process.EpsilonLogitsWarper,
    "eta_cutoff": process.EtaLogitsWarper,
}
_NEUTRAL: dict[str, Any] = {"repetition_penalty": 1, "top_p": 1, "typical_p": 1, "num_beams": 1, "guidance_scale": 1}
_NOT_DONE = (
    "num_beams", "num_beam_groups", "penalty_alpha", "guidance_scale", "constraints", "force_words_ids",
    "forced_bos_token_id", "forced_eos_token_id", "exponential_decay_length_penalty", "dola_layers",
    "watermarking_config", "top_h",
)  # fmt: skip


class Shaping:
    """How logits are shaped for one model.

    Args:
        settings: of its generation_config.json; none where there is no such file.
        reference: what errors call the model.
        ends: tokens that end a text.

    Raises:
        SubmodelError: the file asks for a way of decoding that is not done here, or for a value that cannot be used.
    """

    def __init__(self, settings: Mapping[str, Any], reference: str, ends: frozenset[int]):
        given = {key: value for key, value in settings.items() if _is_given(key, value)}
        for key in _NOT_DONE:
            if key in given and not (key == "num_beam_groups" and given[key] == 1):
                raise SubmodelError(
                    f"{reference}: its generation_config.json asks for {key} {given[key]!r}, which is not done here: "
                    f"remove {key} from it to decode without"
                )
        self._penalties = {key: given[key] for key in _PENALTIES if key in given}
        self._cuts = {key: given[key] for key in _CUTS if key in given}
        self._ends = sorted(ends)
        try:
            self._processors(1, torch.device("cpu"))
            for key, value in self._cuts.items():
                _CUTS[key](value)
        except (ValueError, TypeError) as error:
            first = (str(error).splitlines() or [""])[0]
            raise SubmodelError(f"{reference}: its generation_config.json cannot be followed ({first})") from error

    def __bool__(self) -> bool:
        """Whether anything is shaped."""
        return bool(self._penalties or self._cuts)

    def rows(self, logits: torch.Tensor, sequences: list[Any]) -> torch.Tensor:
        """Logits (rows, vocabulary) to choose each sequence's next token from."""
        if not self:
            return logits
        return torch.stack([self._row(row, sequence) for row, sequence in zip(logits, sequences, strict=True)])

    def _row(self, logits: torch.Tensor, sequence: Any) -> torch.Tensor:
        request = sequence.request
        ids: Any = torch.tensor([[*request.prompt, *sequence.tokens]], device=logits.device)
        scores: Any = logits.float()[None]
        asked = {"repetition_penalty"} if request.processors.repetition != 1 else set()  # the request's own goes before
        for processor in self._processors(len(request.prompt), logits.device, asked):
            scores = processor(ids, scores)
        if request.temperature:
            warm = scores / request.temperature
            for key, value in self._cuts.items():
                own = request.top_k if key == "top_k" else request.top_p < 1 if key == "top_p" else False
                if not own:
                    warm = _CUTS[key](value)(ids, warm)
            scores = scores.masked_fill(warm == -torch.inf, -torch.inf)
        return scores[0]

    def _processors(self, start: int, device: torch.device, without: Collection[str] = ()) -> list[Any]:
        penalties = {key: value for key, value in self._penalties.items() if key not in without}
        return [_PENALTIES[key](value, start, self._ends, device) for key, value in penalties.items()]


def _is_given(key: str, value: Any) -> bool:
    """Whether a setting changes anything."""
    return value not in (None, 0, [], {}, False) and value != _NEUTRAL.get(key)
