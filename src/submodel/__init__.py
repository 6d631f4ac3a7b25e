"""Derive specialised sub-models from one language model by pruning, and keep them as bitmasks over it.

The public names, loaded when first used, so that `submodel --help` does not wait for torch:

    submodel.extract("model-directory", submodel.repository("sources", name="python"), "coder.store")
    print(submodel.info("coder.store@python"))
    coder = submodel.load("coder.store@python")
    print(submodel.generate(coder, "def "))

What the command line does, these functions do, and take the same references: a Hugging Face directory, a hub id, a
.gguf file or STORE@NAME. docs/guide/python.md is a session with all of them.
"""

from typing import TYPE_CHECKING

from submodel.errors import SubmodelError
from submodel.lazy import load_when_used

if TYPE_CHECKING:
    from submodel.api.calibrating import calibrate
    from submodel.api.extraction import extract
    from submodel.api.information import Info, info, list_submodels
    from submodel.api.measuring import Evaluation, benchmark, evaluate, report
    from submodel.api.routing import fit_router, fit_threshold, route
    from submodel.api.running import generate, serve
    from submodel.api.stores import compare, copy, export, rebase, remove, verify
    from submodel.api.studying import StudyResult, run_study
    from submodel.base.models import Base
    from submodel.base.opening import open_base
    from submodel.calibration import Domain, Samples
    from submodel.calibration.constructors import domain, mixture, repository, text_file
    from submodel.prune.scores import SCORES
    from submodel.runtime import Loaded, load
    from submodel.store import Store
    from submodel.tasks import TASKS

_HOMES = {
    "Base": "submodel.base.models",
    "Domain": "submodel.calibration",
    "Evaluation": "submodel.api.measuring",
    "Info": "submodel.api.information",
    "Loaded": "submodel.runtime",
    "SCORES": "submodel.prune.scores",
    "Samples": "submodel.calibration",
    "Store": "submodel.store",
    "TASKS": "submodel.tasks",
    "StudyResult": "submodel.api.studying",
    "benchmark": "submodel.api.measuring",
    "calibrate": "submodel.api.calibrating",
    "compare": "submodel.api.stores",
    "copy": "submodel.api.stores",
    "domain": "submodel.calibration.constructors",
    "evaluate": "submodel.api.measuring",
    "export": "submodel.api.stores",
    "extract": "submodel.api.extraction",
    "fit_router": "submodel.api.routing",
    "fit_threshold": "submodel.api.routing",
    "generate": "submodel.api.running",
    "info": "submodel.api.information",
    "list_submodels": "submodel.api.information",
    "load": "submodel.runtime",
    "mixture": "submodel.calibration.constructors",
    "open_base": "submodel.base.opening",
    "rebase": "submodel.api.stores",
    "remove": "submodel.api.stores",
    "report": "submodel.api.measuring",
    "repository": "submodel.calibration.constructors",
    "route": "submodel.api.routing",
    "run_study": "submodel.api.studying",
    "serve": "submodel.api.running",
    "text_file": "submodel.calibration.constructors",
    "verify": "submodel.api.stores",
}

__all__ = [
    "SCORES",
    "TASKS",
    "Base",
    "Domain",
    "Evaluation",
    "Info",
    "Loaded",
    "Samples",
    "Store",
    "StudyResult",
    "SubmodelError",
    "benchmark",
    "calibrate",
    "compare",
    "copy",
    "domain",
    "evaluate",
    "export",
    "extract",
    "fit_router",
    "fit_threshold",
    "generate",
    "info",
    "list_submodels",
    "load",
    "mixture",
    "open_base",
    "rebase",
    "remove",
    "report",
    "repository",
    "route",
    "run_study",
    "serve",
    "text_file",
    "verify",
]

load_when_used(__name__, _HOMES)
