"""The text of a device function that rounds to a power-law grid, as the tensor operations do: by its table."""

import torch

from precc.backends.triton.emit.device_functions import JIT, Types, literal, named_after
from precc.errors import BackendError
from precc.formats import PowerLaw
from precc.rounding.modes import RoundingMode
from precc.rounding.row import Row
from precc.rounding.tensor_ops import Carrier

__all__ = ["power_text"]

#: Wider tables, of more than 127 steps, are no text that a compiler should unroll.
_LARGEST_WORD = 8


def power_text(row: Row, carrier: Carrier, types: Types) -> tuple[str, str]:
    """Name and text of ``f(x)``, or of ``f(x, random)`` with numbers of 31 bits for a stochastic mode.

    Raises:
        BackendError: the table is too long for a kernel.
    """
    fmt = PowerLaw(name="", word=row.grid.mantissa_bits, power=row.power)
    if fmt.word > _LARGEST_WORD:
        raise BackendError(
            f"triton: a kernel rounds to a power-law grid of {_LARGEST_WORD} bits at most, not of {fmt.word}"
        )
    values = torch.tensor(fmt.values, dtype=carrier.dtype).tolist()
    points = torch.tensor(fmt.decision_points, dtype=carrier.dtype).tolist()
    lines = [
        f"# to +-(i / {len(values) - 1})**(1 / {fmt.power:g}), i from 0 to {len(values) - 1}",
        "size = tl.where(x < 0.0, -x, x)",
        "size = tl.where(size > 1.0, 1.0, size)",
        *_rounded(row.mode, values, points, types),
        f"sign = x.to({types.integer}, bitcast=True) & {types.sign}",
        f"y = (y.to({types.integer}, bitcast=True) | sign).to({types.float}, bitcast=True)",
        "return tl.where(x != x, x, y)",
    ]
    body = "".join(f"    {line}\n" for line in lines)
    name = named_after(f"round_power{fmt.word}_{fmt.power:g}_{row.mode.value}", body)
    return name, f"{JIT}def {name}(x{', random' if row.is_stochastic else ''}):\n{body}"


def _rounded(mode: RoundingMode, values: list[float], points: list[float], types: Types) -> list[str]:
    zero = "tl.zeros_like(size)"
    if mode in (RoundingMode.NEAREST_EVEN, RoundingMode.NEAREST_AWAY):
        return _looked_up("y", zero, points, values[1:])
    if mode is RoundingMode.TOWARD_ZERO:
        return _looked_up("y", zero, values[1:], values[1:])
    above = f"tl.full(size.shape, {literal(values[1])}, {types.float})"
    part = f"{types.divided('size - below', 'above - below')} * 2147483648.0"
    return [
        *_looked_up("below", zero, values[1:-1], values[1:-1]),
        *_looked_up("above", above, values[1:-1], values[2:]),
        f"part = tl.where(x == x, {part}, 0.0)",
        "y = tl.where(part.to(tl.uint32) + random >= 0x80000000, above, below)",
    ]


def _looked_up(name: str, start: str, points: list[float], values: list[float]) -> list[str]:
    """Lines for the value that belongs to the last of ascending points that a size has reached."""
    steps = zip(points, values, strict=True)
    return [
        f"{name} = {start}",
        *(f"{name} = tl.where(size >= {literal(point)}, {literal(value)}, {name})" for point, value in steps),
    ]
