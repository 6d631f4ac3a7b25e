"""Speed, memory and quality of models side by side, in one interleaved run, peers included."""

from submodel.bench.contender import FORMATS, Contender, contenders
from submodel.bench.peer import llama_contenders
from submodel.bench.run import Plan, run
from submodel.bench.table import table

__all__ = ["FORMATS", "Contender", "Plan", "contenders", "llama_contenders", "run", "table"]
