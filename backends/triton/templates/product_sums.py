"""Sums of a product that a kernel rounds: `precc.accumulation` bit for bit, or as a tensor core sums anyway."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from precc.accumulation.accumulator import Accumulator, Order
from precc.accumulation.named import ACCUMULATORS
from precc.backends.triton.device import Device
from precc.backends.triton.emit.conversions import to_carrier, to_dtype
from precc.backends.triton.emit.device_functions import joined
from precc.backends.triton.kernel_source import Argument
from precc.backends.triton.native import fp8_of
from precc.backends.triton.templates.accumulate import Shape, check_depth, sums_of_thread, tile_for, warps_of
from precc.backends.triton.templates.accumulate_orders import Sum, Term, levels_of
from precc.backends.triton.tiles import Tile
from precc.rounding import Row

__all__ = ["RoundedSums", "native_promotion"]

_FP8 = {"float8_e4m3fn": "tl.float8e4nv", "float8_e5m2": "tl.float8e5"}


@dataclass(frozen=True, slots=True)
class RoundedSums:
    """The sums of one product as an accumulator rounds them, term by term.

    Args:
        accumulator: how.
        dtype: of the operands and the result.
        shape: of the product.

    Raises:
        BackendError: a pairwise sum of too many terms.
    """

    accumulator: Accumulator
    dtype: torch.dtype
    shape: Shape

    def __post_init__(self) -> None:
        check_depth(self.accumulator, self.shape.depth)

    @property
    def _sum(self) -> Sum:
        levels = levels_of(self.shape.depth) if self.accumulator.order is Order.PAIRWISE else 0
        wide = self.accumulator.is_stochastic and self.shape.outputs * self.shape.depth > 1 << 32
        return Sum(self.accumulator, wide, levels, shape="(BLOCK_M, BLOCK_N)")

    @property
    def _carrier(self) -> str:
        return "tl.float64" if self.dtype is torch.float64 else "tl.float32"

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """The numbers of its live row, where it draws random ones."""
        return self._sum.arguments

    @property
    def functions(self) -> str:
        """What the lines call."""
        there, back = to_dtype("tl.float64", self.dtype), to_carrier(self.dtype, self._carrier)
        return joined(self._sum.functions, there.functions, back.functions)

    def lines(self, loads: Term) -> list[str]:
        """Lines that make `sums`, in the dtype of the operands, from blocks `a` and `b` of one term each."""
        own = self._sum
        place = ["outputs = ((z.to(tl.int64) * M + rows[:, None]) * N + columns[None, :]) * K"] if own.stages else []
        there, back = to_dtype("tl.float64", self.dtype), to_carrier(self.dtype, self._carrier)
        return [
            f"# each sum in {self.accumulator}",
            "depth = K",
            *own.before,
            *place,
            *own.lines(lambda k: self._term(loads, k)),
            f"sums = {back.of(there.of('total'))}",
        ]

    def _term(self, loads: Term, k: str) -> list[str]:
        if self._carrier == "tl.float64":
            return loads(k)
        return [*loads(k), "a = a.to(tl.float64)", "b = b.to(tl.float64)"]

    def tile(self, device: Device) -> Tile:
        """The block of sums of one program, so many that their registers do not spill."""
        warps = warps_of(self.accumulator)
        most = 32 * warps * sums_of_thread(self.accumulator, levels_of(self.shape.depth))
        sizes = tile_for(self.shape, device, most)
        return Tile(sizes["ROWS"], sizes["COLUMNS"], 1, warps, 1)


def native_promotion(accumulator: Accumulator, operands: Sequence[Row | None], device: Device) -> int | None:
    """After how many terms a Hopper GPU adds its 8-bit products to float32, to sum as this accumulator; 0: after none.

    None: its tensor cores do not sum so, or do not multiply these operands. The interpreter emulates all sums.
    """
    if device.interpreted or device.capability != 90 or accumulator not in ACCUMULATORS.values():
        return None
    assert accumulator.operand_formats is not None
    wanted = [_FP8[own.name] for own in accumulator.operand_formats]
    plain = all(row is not None and row.granularity is None for row in operands)
    if not plain or [fp8_of(row) for row in operands] != wanted:
        return None
    return accumulator.block if accumulator.inner is not None else 0
