"""Cut a tokenizer to the tokens that are kept: the same text, in kept tokens, under new ids.

New ids are the old ones in their order, without gaps. Of BPE every rule stays whose pair and result are kept, of
Unigram every score. A text of whose tokens all are kept gets the same tokens as before (`base.tokenizer_model` says
why); any other is spelled in kept ones. Normaliser, pre-tokenizer and decoder stay as they are.
"""

import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from submodel.base.tokenizer_model import UNIGRAM, TokenizerModel
from submodel.errors import SubmodelError
from submodel.prune.vocabulary.needed import is_id_key

_VOCABULARY_FILES = ("vocab.json", "merges.txt", "tokenizer.model", "spiece.model", "added_tokens.json", "tekken.json")
_BIASES = ("sequence_bias", "forced_decoder_ids")  # of a generation: ids beside other numbers


def cut_document(rules: TokenizerModel, document: Mapping[str, Any], ids: Mapping[int, int]) -> dict[str, Any]:
    """A tokenizer.json with the kept tokens alone.

    Args:
        rules: of the base's tokenizer.
        document: its tokenizer.json.
        ids: old id -> new id, of what is kept.

    Raises:
        SubmodelError: it has a part that names ids in a way that is not understood, or gives other ids than `ids`.
    """
    cut = deepcopy(dict(document))
    model = cut["model"]
    if rules.kind == UNIGRAM:
        model["vocab"] = [entry for at, entry in enumerate(model["vocab"]) if at in ids]
        model["unk_id"] = None if model.get("unk_id") is None else ids[model["unk_id"]]
    else:
        model["vocab"] = {token: ids[at] for token, at in model["vocab"].items() if at in ids}
        model["merges"] = [rule for rule in model["merges"] if _is_kept(rule, model["vocab"])]
    cut["added_tokens"] = [{**entry, "id": ids[entry["id"]]} for entry in cut.get("added_tokens") or ()]
    cut["post_processor"] = _post_processor(cut.get("post_processor"), ids)
    if cut.get("padding"):
        cut["padding"]["pad_id"] = ids[cut["padding"]["pad_id"]]
    _check(cut, rules, ids)
    return cut


@dataclass(frozen=True)
class Ids:
    """Token ids before and after a cut.

    Attributes:
        new: old id -> new id, of what is kept.
        rows, rows_before: of the head.
        reference: of the base, for errors.
    """

    new: Mapping[int, int]
    rows: int
    rows_before: int
    reference: str

    def of(self, key: str, value: Any) -> Any:
        """The new ids of what a configuration says under a key: an id, none, or lists of them.

        An id below 0 stands for none and stays. One past the head's rows can never come, so that it is left out.
        Raises SubmodelError for a row without a token.
        """
        if isinstance(value, list):
            return [self.of(key, one) for one in value if not self._is_past(one)]
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            return value
        if self._is_past(value):
            return None
        if value not in self.new:
            raise SubmodelError(
                f"{self.reference}: {key} is {value}, which is no token: mend the base's configuration, or leave "
                "--vocab cut out"
            )
        return self.new[value]

    def _is_past(self, value: Any) -> bool:
        return isinstance(value, int) and value >= self.rows_before and value not in self.new


def cut_config(config: Any, ids: Ids) -> Any:
    """A configuration in JSON whose token ids and size of the vocabulary are those of the cut.

    Raises SubmodelError as `Ids.of`, and for ids beside other numbers.
    """
    if isinstance(config, list):
        return [cut_config(value, ids) for value in config]
    if not isinstance(config, Mapping):
        return config
    cut: dict[str, Any] = {}
    for key, value in config.items():
        if key in _BIASES and value:
            raise SubmodelError(f"{ids.reference}: its {key} names tokens by id: export it with --vocab all")
        if is_id_key(key):
            cut[key] = ids.of(key, value)
        elif key == "vocab_size" and isinstance(value, int):
            cut[key] = ids.rows
        elif key == "added_tokens_decoder":
            cut[key] = {str(ids.new[int(token)]): entry for token, entry in value.items()}
        else:
            cut[key] = cut_config(value, ids)
    return cut


def cut_side_files(folder: Path, rules: TokenizerModel, ids: Ids) -> None:
    """Rewrite the configurations and the tokenizer in a directory that has the base's.

    Files of the vocabulary beside tokenizer.json are written anew where they are text, and left out else.
    """
    file = folder / "tokenizer.json"
    document = json.loads(file.read_text()) if file.is_file() else rules.document
    cut = cut_document(rules, document, ids.new)
    file.write_text(json.dumps(cut, ensure_ascii=False))
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            config = json.loads((folder / name).read_text())
            (folder / name).write_text(json.dumps(cut_config(config, ids), indent=2) + "\n")
    had = {name for name in _VOCABULARY_FILES if (folder / name).is_file()}
    for name in had:
        (folder / name).unlink()
    if {"vocab.json", "merges.txt"} <= had:
        rules_text = (rule if isinstance(rule, str) else " ".join(rule) for rule in cut["model"]["merges"])
        (folder / "vocab.json").write_text(json.dumps(cut["model"]["vocab"], ensure_ascii=False))
        (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *rules_text]) + "\n")


def _is_kept(rule: str | list[str], vocabulary: Mapping[str, int]) -> bool:
    left, right = rule.split(" ", 1) if isinstance(rule, str) else rule
    return left in vocabulary and right in vocabulary and left + right in vocabulary


def _post_processor(node: Any, ids: Mapping[int, int]) -> Any:
    """What is put around a text, with new ids."""
    if node is None:
        return None
    kind = node.get("type")
    if kind == "Sequence":
        return {**node, "processors": [_post_processor(one, ids) for one in node["processors"]]}
    if kind == "TemplateProcessing":
        special = {
            name: {**entry, "ids": [ids[token] for token in entry["ids"]]}
            for name, entry in node["special_tokens"].items()
        }
        return {**node, "special_tokens": special}
    if kind in ("RobertaProcessing", "BertProcessing"):
        return {**node, **{part: [node[part][0], ids[node[part][1]]] for part in ("sep", "cls")}}
    if kind == "ByteLevel":
        return node
    raise SubmodelError(f"a tokenizer with the post-processor {kind} cannot be cut: export it with --vocab all")


def _check(cut: Mapping[str, Any], rules: TokenizerModel, ids: Mapping[int, int]) -> None:
    """See that the tokenizer, as it will be read, has the kept tokens under their new ids."""
    read = Tokenizer.from_str(json.dumps(cut)).get_vocab(with_added_tokens=True)
    expected = {rules.tokens[old]: new for old, new in ids.items()}
    wrong = sorted(token for token in {*read, *expected} if read.get(token) != expected.get(token))
    if wrong:
        raise SubmodelError(
            f"cut to {len(ids):,} tokens, the tokenizer has {wrong[0]!r} as {read.get(wrong[0])}, not as "
            f"{expected.get(wrong[0])}: its ids have an order that cannot be cut: export it with --vocab all"
        )
