"""The text of device functions that find scales from largest magnitudes, as `precc.rounding.scales` does."""

import math
from dataclasses import dataclass

import torch

from precc.backends.triton.emit.device_functions import JIT, TYPES, Types, joined, literal, named_after
from precc.backends.triton.emit.grid_rounding import grid_text
from precc.errors import BackendError
from precc.formats import ScaleRule
from precc.rounding import RoundingMode, Row
from precc.rounding.row import ScaleRow
from precc.rounding.scales import scale_grid
from precc.rounding.tensor_ops import Carrier, carrier_of_dtype

__all__ = ["ScaleText", "divided_text", "scale_text"]

_DTYPES = {types.float: dtype for dtype, types in TYPES.items()}


@dataclass(frozen=True, slots=True)
class ScaleText:
    """Device functions for the scale of a row, in its carrier.

    Args:
        name: of the function ``scale(amax)``, or ``scale(amax, tensor_amax)`` where there are two levels: blocks of
            largest magnitudes (NaN where there is one) to scales (NaN for those that are not finite).
        functions: their text.
        two_level: whether it needs the largest magnitude of the whole tensor.
    """

    name: str
    functions: str
    two_level: bool = False

    def call(self, amax: str, tensor_amax: str = "") -> str:
        """The expression for the scales of blocks."""
        return f"{self.name}({amax}, {tensor_amax})" if self.two_level else f"{self.name}({amax})"


def scale_text(row: Row, carrier: str) -> ScaleText:
    """The functions for a row whose scales come from the values.

    Raises:
        BackendError: no kernel can find such scales.
    """
    if row.lacks_history or not row.finds_scales:
        raise BackendError("triton: no scale is found from the values: it is given, or comes from a history")
    types = TYPES[_DTYPES[carrier]]
    if row.scale.chosen_rule is ScaleRule.NEAREST:
        return _rounded(row.scale, types)
    return _power_of_two(row.scale, types)


def divided_text(carrier: str) -> tuple[str, str]:
    """Name and text of ``f(x, scale)``: values divided by their scale; by infinity where that is 0."""
    types = TYPES[_DTYPES[carrier]]
    name = f"divided_{types.float.removeprefix('tl.')}"
    divisor = 'tl.where(scale == 0.0, float("inf"), scale)'
    return name, f"{JIT}def {name}(x, scale):\n    return {types.divided('x', divisor)}\n"


def _power_of_two(scale: ScaleRow, types: Types) -> ScaleText:
    fraction, exponent = math.frexp(scale.element_high)
    low, high = (math.frexp(bound)[1] - 1 for bound in (scale.low, scale.high))
    ceil = scale.chosen_rule is ScaleRule.CEIL
    formula = f"ceil(log2(amax / {scale.element_high!r}))" if ceil else f"floor(log2 amax) - {exponent - 1}"
    lines = [
        f"# 2**({formula}), the exponent from {low} to {high}",
        *_exponent(types, exponent),
        *([f"exponent += ({_fraction(types)} > {literal(fraction)}).to({types.integer})"] if ceil else []),
        f"exponent = tl.where((amax == 0.0) | (exponent < {low}), {low}, exponent)",
        f"exponent = tl.where(exponent > {high}, {high}, exponent)",
        "half = exponent >> 1  # in two factors: below the normal numbers it is still exact",
        f"scale = {_two_to('half', types)} * {_two_to('(exponent - half)', types)}",
        'return tl.where(amax < float("inf"), scale, float("nan"))',
    ]
    return _made("ceil" if ceil else "floor", "amax", lines)


def _exponent(types: Types, element_exponent: int) -> list[str]:
    """Lines for the exponent of the scale, from that of the largest magnitude (as of frexp)."""
    m, lift = types.mantissa_bits, types.mantissa_bits + 1
    normal = literal(2.0 ** (1 - types.bias))
    return [
        f"lifted = tl.where(amax < {normal}, amax * {literal(2.0**lift)}, amax)",
        f"bits = lifted.to({types.integer}, bitcast=True)",
        f"exponent = (bits >> {m}) - {types.bias - 1 + element_exponent}",
        f"exponent = tl.where(amax < {normal}, exponent - {lift}, exponent)",
    ]


def _fraction(types: Types) -> str:
    """The fraction of the largest magnitude, from 0.5 to 1."""
    mask, half = (1 << types.mantissa_bits) - 1, (types.bias - 1) << types.mantissa_bits
    return f"((bits & 0x{mask:X}) | 0x{half:X}).to({types.float}, bitcast=True)"


def _two_to(exponent: str, types: Types) -> str:
    return f"(({exponent} + {types.bias}) << {types.mantissa_bits}).to({types.float}, bitcast=True)"


def _rounded(scale: ScaleRow, types: Types) -> ScaleText:
    carrier = _carrier(types)
    rounding, text = grid_text(scale_grid(scale), carrier, types, RoundingMode.NEAREST_EVEN)
    element = _as(scale.element_high, carrier)
    if not scale.two_level:
        lines = [
            f"# amax / {element}, rounded",
            f"scale = {rounding}({_by('amax', element, types)})",
            'return tl.where(amax < float("inf"), scale, float("nan"))',
        ]
        return _made("nearest", "amax", lines, text)
    lines = [
        f"# t = tensor_amax / {_as(scale.element_high * scale.high, carrier)},",
        f"# s = (amax / {element}) / t rounded, s * t",
        f"tensor = {_by('tensor_amax', _as(scale.element_high * scale.high, carrier), types)}",
        f"block = {_by('amax', element, types)}",
        f"block = tl.where(tensor == 0.0, 0.0, {types.divided('block', 'tensor')})",
        f"scale = {rounding}(block) * tensor",
        'return tl.where(amax < float("inf"), scale, float("nan"))',
    ]
    return _made("two_level", "amax, tensor_amax", lines, text)


def _by(amax: str, number: str, types: Types) -> str:
    return types.divided(amax, f"tl.full({amax}.shape, {number}, {types.float})")


def _as(number: float, carrier: Carrier) -> str:
    return literal(torch.tensor(number, dtype=carrier.dtype).item())


def _carrier(types: Types) -> Carrier:
    return carrier_of_dtype(_DTYPES[types.float])


def _made(rule: str, arguments: str, lines: list[str], before: str = "") -> ScaleText:
    body = "".join(f"    {line}\n" for line in lines)
    name = named_after(f"scale_{rule}", body)
    text = f"{JIT}def {name}({arguments}):\n{body}"
    return ScaleText(name, joined(before, text) if before else text, rule == "two_level")
