"""The text of device functions that round blocks of values as a row says, bit for bit as `precc.rounding.quantize`."""

from dataclasses import dataclass

import torch

from precc.backends.triton.emit.device_functions import JIT, TYPES, Types, joined, named_after
from precc.backends.triton.emit.grid_rounding import grid_text
from precc.backends.triton.emit.live_numbers import live_argument, state_lines, states
from precc.backends.triton.emit.power_law import power_text
from precc.backends.triton.emit.random_bits import random_call, random_functions
from precc.backends.triton.kernel_source import Argument
from precc.errors import BackendError
from precc.rounding import Row
from precc.rounding.tensor_ops import Carrier, carrier_of_dtype, nested_grid

__all__ = ["RoundingText", "rounding_text"]


@dataclass(frozen=True, slots=True)
class RoundingText:
    """Device functions that round elements, and how a kernel calls the outermost.

    Args:
        name: of the outermost function.
        functions: their text, each decorated, in an order in which they can be defined. Equal rows have equal texts;
            `joined` puts several together.
        carrier: the type in which values are rounded: ``tl.float32`` or ``tl.float64``; what is called has that type.
        draws: how many streams of random numbers it reads; with any, it is called with indices.
    """

    name: str
    functions: str
    carrier: str
    draws: int = 0

    def arguments(self, prefix: str) -> tuple[Argument, ...]:
        """What a kernel that calls it must be given at run time: the numbers of the live row."""
        return (live_argument(prefix),) if self.draws else ()

    def before(self, prefix: str) -> list[str]:
        """Lines that read the states of its streams from there, before it is called."""
        return [line for n in range(self.draws) for line in state_lines(prefix, prefix, n, n)]

    def call(self, value: str, index: str, prefix: str) -> str:
        """The expression for a block of values, already divided by their scale, of which `index` names the row-major
        indices in the tensor, of the values' shape.
        """
        own = [half for n in range(self.draws) for half in states(prefix, n)]
        return f"{self.name}({', '.join([value, *([index] if self.draws else []), *own])})"


def rounding_text(row: Row, dtype: torch.dtype, wide: bool = False) -> RoundingText:
    """The functions for the elements of a row, of tensors of a dtype; scales are apart.

    Args:
        row: the precision.
        dtype: of the tensor.
        wide: whether the tensor may have more than ``2**32`` elements; its indices are then of 64 bits.

    Raises:
        BackendError: no kernel can round so; the message says what.
    """
    if row.mode_needs_state:
        raise BackendError(f"triton: no kernel rounds by {row.mode.value}, which needs more than the value")
    carrier = carrier_of_dtype(dtype, row)
    types = TYPES[carrier.dtype]
    stages = _stages(row, carrier, types)
    if not row.is_stochastic:
        return _plain(stages, types)
    return _stochastic(stages, row, types, wide)


def _stages(row: Row, carrier: Carrier, types: Types) -> list[tuple[str, str]]:
    """Name and text of the roundings, one after the other."""
    if row.power:
        return [power_text(row, carrier, types)]
    grids = [row.grid, *([nested_grid(row)] if row.shift else [])]
    return [grid_text(grid, carrier, types, row.mode) for grid in grids]


def _plain(stages: list[tuple[str, str]], types: Types) -> RoundingText:
    if len(stages) == 1:
        return RoundingText(*stages[0], types.float)
    (first, text), (second, last) = stages
    body = f"    return {second}({first}(x))\n"
    name = named_after("round_nested", body)
    return RoundingText(name, joined(text, last, f"{JIT}def {name}(x):\n{body}"), types.float)


def _stochastic(stages: list[tuple[str, str]], row: Row, types: Types, wide: bool) -> RoundingText:
    lines = [
        f"x = {name}(x, {random_call('index', f'a{n}', f'b{n}', row.random_bits, wide)})"
        for n, (name, _) in enumerate(stages)
    ]
    body = "".join(f"    {line}\n" for line in [*lines, "return x"])
    states = ", ".join(f"{half}{n}" for n in range(len(stages)) for half in "ab")
    name = named_after(f"{stages[0][0].rsplit('_', 1)[0]}_{row.random_bits}", body)
    text = f"{JIT}def {name}(x, index, {states}):\n{body}"
    functions = joined(random_functions(wide), *(text for _, text in stages), text)
    return RoundingText(name, functions, types.float, len(stages))
