"""What takes part in a comparison: the dense base in several forms, and every sub-model in every packed format."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from submodel.base.arithmetic import multiplies
from submodel.base.models import Base
from submodel.base.opening import open_base
from submodel.errors import unknown_name
from submodel.runtime.packed.checkpoint import is_packed
from submodel.runtime.packed.formats import DENSE, MASKED
from submodel.store import Store, split_reference
from submodel.store.base import open_store_base

FORMATS = MASKED
"""The formats that a sub-model may be measured in."""


@dataclass(frozen=True)
class Contender:
    """One model as one program runs it.

    Attributes:
        engine: "transformers", "submodel" or "llama.cpp".
        reference: the model, or the GGUF file of llama.cpp.
        form: a key of the runtime's FORMATS, a type of llama.cpp, a dtype of `transformers`, or None: as stored, or
            packed already.
        base: of STORE@NAME, where it is if it has moved; of a GGUF file, whose weights it has.
    """

    engine: str
    reference: str
    form: str | None
    base: str | None = None

    @property
    def title(self) -> str:
        """Such as `coder.store@python int8`."""
        name = Path(self.reference).name or self.reference
        return " ".join(part for part in (name, self.engine if self.engine != "submodel" else "", self.form) if part)


def contenders(
    references: Sequence[str],
    formats: Sequence[str],
    opened: dict[str, Base],
    base: str | None = None,
    trust_remote_code: bool = False,
) -> list[Contender]:
    """Every base that is named or that a store has: as `transformers` runs it (also in float32 where the processor
    does not multiply what is stored), and dense in our engine in 16 and 8 bits; then every sub-model in every format,
    and packed directories as they are. Each once.

    Args:
        references: directories, hub ids, .gguf files, STORE@NAME, packed directories.
        formats: of the sub-models, members of FORMATS.
        opened: gets the bases, by reference.
        base: where the stores' base is now, if it has moved.
        trust_remote_code: let code that is shipped with a model run.

    Raises:
        SubmodelError: an unknown format or sub-model, or a base that is not there.
    """
    for form in formats:
        if form not in FORMATS:
            raise unknown_name("format of a sub-model", form, FORMATS)
    bases: dict[str, None] = {}
    others: list[Contender] = []
    for reference in references:
        parts = split_reference(reference)
        if is_packed(reference):
            others.append(Contender("submodel", reference, None))
        elif parts is None:
            if reference not in opened:
                opened[reference] = open_base(reference, trust_remote_code)
            bases[reference] = None
        else:
            store = Store(parts[0])
            store.manifest(parts[1])
            bases[open_store_base(store, base, trust_remote_code, opened).reference] = None
            others += [Contender("submodel", reference, form, base) for form in formats]
    dense: list[Contender] = []
    for reference in bases:
        forms = [None] if multiplies(opened[reference].dtype) else [None, "float32"]
        dense += [Contender("transformers", reference, form) for form in forms]
        dense += [Contender("submodel", reference, form) for form in DENSE]
    return list(dict.fromkeys([*dense, *others]))
