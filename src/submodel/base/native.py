"""The native kernels (csrc/): found, loaded through ctypes once, and given tensors' own memory.

The interpreter lock is released while they run. Without the library (no compiler at install time) everything that
uses it has a slower torch twin, and the user is told once.
"""

import ctypes
import os
import warnings
from functools import cache
from pathlib import Path
from typing import Any

from submodel.errors import SubmodelError, unknown_name

SETS = ("torch", "reference", "avx2", "avx512", "amx", "neon")
"""What SUBMODEL_KERNELS may name: the torch twins, plain C++, those of x86, the better the later, and ARM's."""

LIBRARY = Path(__file__).parent / "kernels.so"


class Matrix(ctypes.Structure):
    """`sm_matrix` of csrc/submodel.h."""

    _fields_ = [
        ("format", ctypes.c_int64),
        ("rows", ctypes.c_int64),
        ("cols", ctypes.c_int64),
        ("mask", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
        ("starts", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
    ]


class Linear(ctypes.Structure):
    """`sm_linear` of csrc/submodel.h."""

    _fields_ = [("matrix", ctypes.POINTER(Matrix)), ("bias", ctypes.c_void_p)]


class Move(ctypes.Structure):
    """`sm_move` of csrc/submodel.h."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("rows", "cols", "wide", "group", "removed")),
        *((name, ctypes.c_float) for name in ("rate", "memory", "seen")),
        *((name, ctypes.c_void_p) for name in ("counts", "gradient", "weights", "scores", "square", "masked")),
    ]


LINEARS = ("q", "k", "v", "o", "gate", "up", "down")
NORMS = ("attention_norm", "mlp_norm", "q_norm", "k_norm", "attention_out_norm", "mlp_out_norm")


class Block(ctypes.Structure):
    """`sm_block` of csrc/submodel.h."""

    _fields_ = [
        *((name, Linear) for name in LINEARS),
        *((name, ctypes.c_void_p) for name in NORMS),
        ("window", ctypes.c_int64),
        ("rotation", ctypes.c_int64),
    ]


class Rows(ctypes.Structure):
    """`sm_rows` of csrc/submodel.h."""

    _fields_ = [
        ("matrix", ctypes.POINTER(Matrix)),
        ("runs", ctypes.c_void_p),
        ("count", ctypes.c_int64),
        ("total", ctypes.c_int64),
    ]


SIZES = ("blocks", "hidden", "heads", "key_heads", "head_size", "intermediate", "gelu", "alone")


class Model(ctypes.Structure):
    """`sm_model` of csrc/submodel.h."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in SIZES),
        ("epsilon", ctypes.c_float),
        ("scale", ctypes.c_float),
        ("attention_cap", ctypes.c_float),
        ("logit_cap", ctypes.c_float),
        ("block", ctypes.POINTER(Block)),
        ("norm", ctypes.c_void_p),
        ("head", Rows),
    ]


def open_library(file: Path) -> Any:
    """Load a build of csrc/. Raises OSError when it is not there."""
    kernels = ctypes.CDLL(str(file))
    number, pointer, matrix = ctypes.c_int64, ctypes.c_void_p, ctypes.POINTER(Matrix)
    for name, result, arguments in [
        ("sm_kernels", ctypes.c_char_p, []),
        ("sm_starts", number, [number, pointer, number, number, pointer]),
        ("sm_pack", None, [matrix, pointer, pointer, number]),
        ("sm_unpack", None, [matrix, number, number, pointer, number]),
        ("sm_matmul", None, [matrix, pointer, number, pointer, pointer, number]),
        ("sm_dense", None, [pointer, number, number, pointer, number, pointer, pointer, number]),
        ("sm_gram", number, [pointer, *[number] * 3, pointer, number]),
        ("sm_exchange", None, [*[pointer] * 3, *[number] * 4, ctypes.c_float, pointer, pointer, number]),
        ("sm_move_scores", None, [ctypes.POINTER(Move), number]),
        ("sm_divergence", None, [pointer, pointer, *[number] * 3, *[pointer] * 3, number]),
        (
            "sm_step",
            None,
            [ctypes.POINTER(Model), number, *[pointer] * 5, number, pointer, number, *[pointer] * 3, number],
        ),
    ]:
        function = getattr(kernels, name)
        function.restype, function.argtypes = result, arguments
    return kernels


@cache
def library() -> Any:
    """The loaded library, or None; then one warning says what to do, unless SUBMODEL_KERNELS=torch asks for it.

    Raises SubmodelError when SUBMODEL_KERNELS names a set that does not exist or this processor does not have.
    """
    requested = os.environ.get("SUBMODEL_KERNELS")
    if requested is not None and requested not in SETS:
        raise unknown_name("SUBMODEL_KERNELS", requested, SETS)
    if requested == "torch":
        return None
    try:
        loaded = open_library(LIBRARY)
        if requested is not None and loaded.sm_kernels().decode() != requested:
            raise SubmodelError(
                f"SUBMODEL_KERNELS={requested}: this processor has no more than {loaded.sm_kernels().decode()}"
            )
        return loaded
    except OSError as error:
        warnings.warn(
            f"the native kernels are not there ({error}): packed models and the methods swaps and distil run slowly; "
            "install a C++ compiler and submodel again",
            stacklevel=2,
        )
        return None


def instruction_set() -> str:
    """What the kernels run on: "amx", "avx512", "avx2", "neon", "reference" (plain C++) or "torch" (no library)."""
    loaded = library()
    return loaded.sm_kernels().decode() if loaded else "torch"
