"""Rotary position embeddings: a file's keys and tensors as the `rope_parameters` of a config.

llama.cpp multiplies positions by 1/factor ("linear"), mixes that with none by frequency ("yarn"), or divides each
frequency by a number of its own: those of the tensor `rope_freqs` (Llama 3's rule, written out), or those of
`rope_factors_short` and, in contexts longer than the original, of `rope_factors_long` (LongRoPE).
"""

import math
from typing import Any

from submodel.base.gguf.keys import Keys

_TYPES = ("none", "linear", "yarn", "longrope")
_FREQUENCIES, _SHORT, _LONG = "rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight"
_CLOSE = 1e-5  # the factors are float32


def rope_parameters(keys: Keys, head_dim: int, default_theta: float = 10000.0) -> dict[str, Any]:
    """The `rope_parameters` that a file's keys and tensors stand for.

    Args:
        keys: of the file.
        head_dim: the size of an attention head.
        default_theta: the base where the file does not say.

    Raises:
        SubmodelError: a key or a tensor that cannot be obeyed.
    """
    theta = float(keys.get("rope.freq_base", default_theta))
    parameters: dict[str, Any] = {"rope_type": "default", "rope_theta": theta}
    dimensions = keys.number("rope.dimension_count", head_dim)
    if dimensions != head_dim:
        parameters["partial_rotary_factor"] = _share(keys, dimensions, head_dim)
    kind = keys.get("rope.scaling.type", "linear")
    if kind not in _TYPES:
        raise keys.refusal("rope.scaling.type", f"one of {', '.join(_TYPES)} is understood")
    factor = keys.get("rope.scaling.factor", keys.get("rope.scale_linear", 0)) or 1
    context = int(keys.need("context_length"))
    original = int(keys.get("rope.scaling.original_context_length", context))
    factors, short, long = (keys.vector(name) for name in (_FREQUENCIES, _SHORT, _LONG))
    for name, values in ((_FREQUENCIES, factors), (_SHORT, short), (_LONG, long)):
        if values is not None and len(values) != dimensions // 2:
            raise keys.refusal("rope.dimension_count", f"{name} has {len(values)} numbers, not {dimensions // 2}")
    if short is not None or long is not None:
        if kind == "yarn" or short is None or long is None or factors is not None:
            raise keys.refusal("rope.scaling.type", f"{_SHORT} and {_LONG} go together, and with no other scaling")
        given = keys.get("rope.scaling.attn_factor")
        parameters |= _long(short, long, original, given or _attention_of(context / original, original))
        if kind == "linear" and factor != 1:
            raise keys.refusal("rope.scaling.factor", f"not understood together with {_SHORT}")
    elif kind == "longrope":
        raise keys.refusal("rope.scaling.type", f"the file has no tensor {_SHORT}")
    elif kind == "yarn" and factor != 1:
        if factors is not None:
            raise keys.refusal("rope.scaling.type", f"not understood together with {_FREQUENCIES}")
        parameters |= _yarn(keys, factor, original)
    elif factors is not None:
        scale = factor if kind == "linear" else 1
        found = _llama3(theta, factors, dimensions, original, context) if scale == 1 else None
        every = [number * scale for number in factors]
        parameters |= found or _long(every, every, context, 1.0)
    elif kind == "linear" and factor != 1:
        parameters |= {"rope_type": "linear", "factor": float(factor)}
    return parameters


def _share(keys: Keys, dimensions: int, head_dim: int) -> float:
    """The share of a head that turns, such that models compute the same number of dimensions from it."""
    share = dimensions / head_dim
    if dimensions % 2 or not 0 < dimensions < head_dim:
        raise keys.refusal("rope.dimension_count", f"heads have {head_dim} dimensions")
    while int(head_dim * share) < dimensions:
        share = math.nextafter(share, 1)
    return share


def _attention_of(factor: float, original: int) -> float:
    """LongRoPE's own rule (arXiv 2402.13753)."""
    return 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))


def _long(short: list[float], long: list[float], original: int, attention: float) -> dict[str, Any]:
    return {
        "rope_type": "longrope",
        "short_factor": short,
        "long_factor": long,
        "original_max_position_embeddings": original,
        "attention_factor": float(attention),
    }


def _yarn(keys: Keys, factor: float, original: int) -> dict[str, Any]:
    parameters = {"rope_type": "yarn", "factor": float(factor), "original_max_position_embeddings": original}
    if keys.get("rope.scaling.yarn_ext_factor", 1) not in (1, -1):
        raise keys.refusal("rope.scaling.yarn_ext_factor", "only 1 is supported")
    for name, key in (("beta_fast", "rope.scaling.yarn_beta_fast"), ("beta_slow", "rope.scaling.yarn_beta_slow")):
        if (value := keys.get(key)) is not None:
            parameters[name] = float(value)
    attention = keys.get("rope.scaling.yarn_attn_factor")
    scale = float(keys.get("rope.scaling.attn_factor", 1))
    if attention is not None or scale != 1:
        parameters["attention_factor"] = scale * (attention or 0.1 * math.log(factor) + 1)
    return parameters


def _llama3(theta: float, factors: list[float], dimensions: int, original: int, context: int) -> dict[str, Any] | None:
    """Llama 3's parameters, if its rule gives these factors; a config that says so runs in more engines.

    High frequencies keep 1, low ones have the factor, and between them 1/factor is a line over the frequency, which is
    known by two points. The line leaves one number open: the low frequency factor is taken as 1, which all models have.
    """
    factor = max(factors)
    wavelengths = [2 * math.pi * theta ** (2 * i / dimensions) for i in range(dimensions // 2)]
    if factor <= 1:
        return None
    candidates = [(original, 4.0), (8192, 4.0)]
    ramp = [
        (1 / wave, (1 / f - 1 / factor) / (1 - 1 / factor))
        for wave, f in zip(wavelengths, factors, strict=True)
        if 1 + _CLOSE < f < factor * (1 - _CLOSE)
    ]
    if len(ramp) > 1:
        (x0, y0), (x1, y1) = ramp[0], ramp[-1]
        slope = (y1 - y0) / (x1 - x0)
        if (crossing := slope * x0 - y0) > 0:
            candidates.insert(0, (round(slope / crossing), round(1 + 1 / crossing, 3)))
    for context_before, high in candidates:
        made = [_llama3_factor(wave, factor, 1.0, high, context_before) for wave in wavelengths]
        if all(math.isclose(a, b, rel_tol=_CLOSE) for a, b in zip(made, factors, strict=True)):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": 1.0,
                "high_freq_factor": high,
                "original_max_position_embeddings": context_before,
            }
    return None


def _llama3_factor(wavelength: float, factor: float, low: float, high: float, original: int) -> float:
    if wavelength < original / high:
        return 1.0
    if wavelength > original / low:
        return factor
    smooth = (original / wavelength - low) / (high - low)
    return 1 / ((1 - smooth) / factor + smooth)
