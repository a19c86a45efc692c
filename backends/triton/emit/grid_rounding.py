"""The text of a device function that rounds to a grid, as `precc.rounding.tensor_ops.round_grid` does."""

import math

from precc.backends.triton.emit.device_functions import JIT, Types, literal, named_after
from precc.rounding.modes import RoundingMode
from precc.rounding.row import Grid
from precc.rounding.tensor_ops import Carrier, GridScalars

__all__ = ["grid_text"]

_WORDS = {
    RoundingMode.NEAREST_EVEN: "to nearest, ties to even",
    RoundingMode.NEAREST_AWAY: "to nearest, ties away from zero",
    RoundingMode.TOWARD_ZERO: "toward zero",
    RoundingMode.STOCHASTIC: "away from zero if the rest in 2**31 parts of q and `random` make 2**31, else toward zero",
}


def grid_text(grid: Grid, carrier: Carrier, types: Types, mode: RoundingMode) -> tuple[str, str]:
    """Name and text of ``f(x)``, or of ``f(x, random)`` with numbers of 31 bits for a stochastic mode."""
    scalars = GridScalars.of(grid, carrier)
    lines = [
        f"# to a multiple of q = {_quantum(scalars, types)},",
        f"# {_WORDS[mode]};",
        f"# {_beyond(scalars, mode)}",
        f"bits = x.to({types.integer}, bitcast=True)",
        f"size = (bits & 0x{types.magnitude_mask:X}).to({types.float}, bitcast=True)",
        *_smallest(scalars),
        *_normal(scalars, types, mode),
        *_subnormal(scalars, carrier, mode),
        *_limited(scalars, types, mode),
    ]
    body = "".join(f"    {line}\n" for line in lines)
    m = types.mantissa_bits - scalars.dropped_bits
    kind = f"k{scalars.k_min}" if _is_fixed(scalars) else f"m{m}_k{scalars.k_min}"
    name = named_after(f"round_{kind}_{mode.value}", body)
    return name, f"{JIT}def {name}(x{', random' if mode is RoundingMode.STOCHASTIC else ''}):\n{body}"


def _is_fixed(scalars: GridScalars) -> bool:
    return scalars.dropped_bits == 0


def _quantum(scalars: GridScalars, types: Types) -> str:
    if _is_fixed(scalars):
        return f"2**{scalars.k_min}"
    m = types.mantissa_bits - scalars.dropped_bits
    emin = int(math.log2(scalars.smallest_normal))
    return f"2**(floor(log2 |x|) - {m}) from |x| = 2**{emin} on, below it 2**{scalars.k_min}"


def _beyond(scalars: GridScalars, mode: RoundingMode) -> str:
    becomes = f"above {scalars.high!r}: {scalars.above!r}, below {scalars.low!r}: {scalars.below!r}"
    return becomes + (" (finite values stop at the ends)" if mode is RoundingMode.TOWARD_ZERO else "")


def _smallest(scalars: GridScalars) -> list[str]:
    if not scalars.tiny:
        return []
    return [f"size = tl.where((size > 0.0) & (size < {literal(scalars.tiny)}), {literal(scalars.tiny)}, size)"]


def _normal(scalars: GridScalars, types: Types, mode: RoundingMode) -> list[str]:
    """Lines for `y`, the magnitude with the last bits rounded away."""
    dropped = scalars.dropped_bits
    if not dropped:
        return ["y = size"]
    lines = [f"kept = size.to({types.integer}, bitcast=True)"]
    half = 1 << dropped >> 1
    if mode is RoundingMode.NEAREST_EVEN:
        lines.append(f"kept += 0x{half - 1:X} + {_last_kept(scalars, types)}")
    elif mode is RoundingMode.NEAREST_AWAY:
        lines.append(f"kept += 0x{half:X}")
    elif mode is RoundingMode.STOCHASTIC:
        shifted = f"random >> {31 - dropped}" if dropped <= 31 else f"random.to(tl.int64) << {dropped - 31}"
        lines.append(f"kept += ({shifted}).to({types.integer})")
    return [*lines, f"y = (kept & -0x{1 << dropped:X}).to({types.float}, bitcast=True)"]


def _last_kept(scalars: GridScalars, types: Types) -> str:
    last = f"((kept >> {scalars.dropped_bits}) & 1)"
    if scalars.dropped_bits < types.mantissa_bits:
        return last
    # the last kept bit is the exponent's
    return {0: "1", 1: last, 2: f"({last} ^ 1)"}[scalars.ties]


def _subnormal(scalars: GridScalars, carrier: Carrier, mode: RoundingMode) -> list[str]:
    """Lines that replace `y` where the quantum is constant: adding and subtracting a power of two rounds."""
    normal, k = literal(scalars.smallest_normal), scalars.k_min
    if k == carrier.smallest_k:  # all are multiples
        return [] if _is_fixed(scalars) else [f"y = tl.where(size < {normal}, size, y)"]
    magic, quantum = literal(2.0 ** (k + carrier.mantissa_bits)), literal(2.0**k)
    lines = [f"small = tl.where(size < {normal}, size, 0.0)", f"near = (small + {magic}) - {magic}"]
    if mode is RoundingMode.NEAREST_AWAY:
        lines.append(f"near = tl.where(small - near == {literal(2.0 ** (k - 1))}, near + {quantum}, near)")
    elif mode is not RoundingMode.NEAREST_EVEN:
        lines.append(f"near = tl.where(near > small, near - {quantum}, near)")
    if mode is RoundingMode.STOCHASTIC:
        first = (31 - k) // 2
        parts = f"((small - near) * {literal(2.0**first)}) * {literal(2.0 ** (31 - k - first))}"
        lines.append(f"up = ({parts}).to(tl.uint32) + random >= 0x80000000")
        lines.append(f"near = tl.where(up, near + {quantum}, near)")
    return [*lines, f"y = tl.where(size < {normal}, near, y)"]


def _limited(scalars: GridScalars, types: Types, mode: RoundingMode) -> list[str]:
    """Lines that put `y` beyond the ends where it belongs; two numbers in one ``tl.where`` would be of float32."""
    lines = [f"y = (y.to({types.integer}, bitcast=True) | (bits & {types.sign})).to({types.float}, bitcast=True)"]
    stays = mode is RoundingMode.TOWARD_ZERO
    for sign, bound, beyond, end in (
        (">", scalars.high, scalars.above, "inf"),
        ("<", scalars.low, scalars.below, "-inf"),
    ):
        if math.isinf(bound) and bound == float(end):
            continue
        lines.append(f"y = tl.where(y {sign} {literal(bound)}, {literal(bound if stays else beyond)}, y)")
        if stays and beyond != bound:
            lines.append(f'y = tl.where(x == float("{end}"), {literal(beyond)}, y)')
    if not scalars.negative_zero:
        lines.append("y = y + 0.0  # no negative zero")
    return [*lines, "return tl.where(x != x, x, y)"]
