"""The codes of rounded values: which bits stand for which value of a grid.

A code is the index of the magnitude on the grid with the sign bit above it, for OCP and IEEE formats exactly their bit
patterns; of fixed point the multiple of the quantum in two's complement. Infinity is the index after the largest, a NaN
all ones of the storage but the first, where no value has that code.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from precc.rounding import Row
from precc.rounding.row import Grid
from precc.rounding.tensor_ops import carrier_of_dtype, nested_grid

__all__ = ["Codes", "codes_of"]


@dataclass(frozen=True, slots=True)
class Codes:
    """Codes of unscaled rounded values.

    Args:
        storage: bits of one: 4, 8 or 16; 32 or 64 where values are stored as they are.
        grid: of the values; None where they are stored as they are.
        fixed: whether they are multiples of one quantum, in two's complement.
        signed: whether there are negative values.
        largest: the largest index of a number or infinity.
        nan: the code of NaN; -1 where there is none.
    """

    storage: int
    grid: Grid | None = None
    fixed: bool = False
    signed: bool = True
    largest: int = 0
    nan: int = -1

    @property
    def holds_nan(self) -> bool:
        """Whether NaN has a code."""
        return self.grid is None or self.nan >= 0

    def encode(self, values: Tensor) -> Tensor:
        """The codes of values of a carrier that are on the grid, as int64."""
        assert self.grid is not None
        known = torch.where(values == values, values, 0.0)
        code = self._fixed_codes(known) if self.fixed else self._float_codes(known, self.grid)
        return torch.where(values == values, code, max(self.nan, 0))

    def decode(self, codes: Tensor, dtype: torch.dtype) -> Tensor:
        """The values of int64 codes, in a carrier's dtype."""
        assert self.grid is not None
        if self.fixed:
            sign = 1 << (self.storage - 1)
            values = _scaled((((codes & (2 * sign - 1)) ^ sign) - sign).double(), self.grid.k_min)
        else:
            values = self._float_values(codes, self.grid)
        values = values.to(dtype)
        return torch.where(codes == self.nan, math.nan, values) if self.nan >= 0 else values

    @property
    def sign(self) -> int:
        """The bit that says that a float is negative: the one above its indices."""
        return 1 << self.largest.bit_length()

    def _fixed_codes(self, values: Tensor) -> Tensor:
        assert self.grid is not None
        multiples = _scaled(values.double(), -self.grid.k_min)
        return multiples.to(torch.int64) & ((1 << self.storage) - 1)

    def _float_codes(self, values: Tensor, grid: Grid) -> Tensor:
        magnitude = values.double().abs()
        finite = magnitude.where(magnitude < math.inf, 0.0)
        fraction, exponent = torch.frexp(finite)
        exponent = exponent.to(torch.int64) - 1
        first = 1 << (grid.emin - grid.k_min)
        normal = ((exponent - grid.emin) << grid.mantissa_bits) + first
        normal = normal + _scaled(2 * fraction - 1, grid.mantissa_bits).to(torch.int64)
        below = finite < 2.0**grid.emin
        small = _scaled(finite.where(below, 0.0), -grid.k_min).to(torch.int64)
        index = torch.where(below, small, normal)
        index = torch.where(magnitude == math.inf, self.largest, index)
        return torch.where(torch.signbit(values), index | self.sign, index) if self.signed else index

    def _float_values(self, codes: Tensor, grid: Grid) -> Tensor:
        index = codes & (self.sign - 1) if self.signed else codes
        first = 1 << (grid.emin - grid.k_min)
        above = (index - first).clamp(min=0)
        fraction = 1 + _scaled((above & ((1 << grid.mantissa_bits) - 1)).double(), -grid.mantissa_bits)
        power = ((above >> grid.mantissa_bits) + (grid.emin + 1023)).clamp(1, 2046)  # beyond: codes of no number
        normal = fraction * (power << 52).view(torch.float64)
        values = torch.where(index < first, _scaled(index.double(), grid.k_min), normal)
        if math.isinf(grid.above):
            values = torch.where(index == self.largest, math.inf, values)
        negative = codes & self.sign != 0
        return torch.where(negative, -values, values) if self.signed else values


def _scaled(x: Tensor, exponent: int) -> Tensor:
    """By a power of two, in two factors: float64 may not hold it."""
    half = exponent // 2
    return (x * 2.0**half) * 2.0 ** (exponent - half)


@lru_cache(maxsize=1024)
def codes_of(row: Row, dtype: torch.dtype) -> Codes:
    """The codes of the elements of a row, of tensors of a dtype."""
    carrier = carrier_of_dtype(dtype, row)
    grid = nested_grid(row) if row.shift else row.grid
    own = Codes(carrier.dtype.itemsize * 8)
    if row.power or not math.isfinite(grid.high):
        return own
    found = _fixed(grid) if grid.has_one_quantum else _float(grid)
    return found if found is not None and found.storage < own.storage else own


def _storage(bits: int) -> int:
    return next((storage for storage in (4, 8, 16) if bits <= storage), 64)


def _fixed(grid: Grid) -> Codes:
    low, high = (int(math.ldexp(bound, -grid.k_min)) for bound in (grid.low, grid.high))
    storage = _storage(1 + max(high.bit_length(), (-low - 1).bit_length() if low < 0 else 0))
    nan = (1 << (storage - 1)) - 1
    return Codes(storage, grid, fixed=True, largest=high, nan=nan if high < nan else -1)


def _float(grid: Grid) -> Codes:
    largest, signed = _index_of(grid, grid.high) + int(math.isinf(grid.above)), grid.low < 0
    storage = _storage(largest.bit_length() + int(signed))
    nan, sign = (1 << (storage - 1)) - 1, 1 << largest.bit_length()
    free = nan > (largest | sign if signed else largest) or largest < nan < sign
    return Codes(storage, grid, signed=signed, largest=largest, nan=nan if free else -1)


def _index_of(grid: Grid, magnitude: float) -> int:
    """How many magnitudes of the grid are below this one of it."""
    fraction, exponent = math.frexp(magnitude)
    if exponent - 1 < grid.emin:
        return int(math.ldexp(magnitude, -grid.k_min))
    upper = int(math.ldexp(2 * fraction - 1, grid.mantissa_bits))
    return ((exponent - 1 - grid.emin) << grid.mantissa_bits) + upper + (1 << (grid.emin - grid.k_min))
