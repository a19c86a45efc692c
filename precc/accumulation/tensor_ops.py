"""Matrix products with a rounded running sum, by tensor operations: the twin of the compiled kernel.

Every sum is rounded once. It is first rounded to odd in float64: the nearest float64 from which the rounding error
(TwoSum; Knuth 1969) leads to the neighbour with an odd last bit. Such a value lies on the same side of every number
of up to 51 bits as the exact sum does, so rounding it again gives what the exact sum would (Boldo and Melquiond 2008).
"""

import torch
from torch import Tensor

from precc.accumulation.accumulator import Accumulator, Order
from precc.accumulation.patches import Patches
from precc.errors import FormatError
from precc.formats import FixedPoint, FloatFormat
from precc.rounding.modes import RoundingMode
from precc.rounding.random_bits import hashed_at, truncated
from precc.rounding.row import Grid, row_of
from precc.rounding.tensor_ops import round_grid

__all__ = ["STAGES", "accumulate_tensor_ops", "check_operands", "grid_of", "product_shape"]

#: Which rounding of a term draws from which stream: the slot is that of the call plus this number.
STAGES = {"add": 0, "multiply": 1, "leaf": 2, "outer": 2, "correct": 2, "recover": 3, "error": 4}


#: Between which the largest exponent of an aligned block counts: float64 can then hold all powers of two that occur.
_LEAST_EXPONENT, _LARGEST_EXPONENT, _NO_EXPONENT = -960, 1023, -9999


def accumulate_tensor_ops(
    a: Tensor, b: Tensor | Patches, accumulator: Accumulator, key: int = 0, *, slot: int = 0, first: int = 0
) -> Tensor:
    """``a @ b`` with the sum rounded as `accumulator` says.

    Products of float32 operands are exact; those of float64 operands are rounded to float64 first, which changes
    nothing where the two significands have 53 bits together. A result that float32 operands' dtype cannot hold is
    rounded to it, to nearest even.

    A stochastic rounding of term k of output i, counted row-major over [B,] M, N, draws number ``i * K + k`` of the
    stream of (key, slot + stage): stage 0 adds, 1 multiplies; 2 rounds the leaves of a pairwise sum, adds the sums of
    blocks, or makes the first operation of a compensated sum, whose third and fourth are 3 and 4. The addition of two
    parts of a pairwise sum has the k of the first term of its right part, that of a block the k of the block's first
    (in stage 0 where the block is aligned).
    Going up has the distance to the grid point below as its probability, truncated to 31 bits; formats of more than 21
    stored significand bits take it from the sum rounded to odd.

    Args:
        a: float32 or float64, [M, K] or [A, M, K], A a divisor of B.
        b: of the same dtype, [K, N], or [B, K, N] as a tensor or as patches; matrix i meets ``a[i % A]``.
        accumulator: the format of the sum, and how it is rounded.
        key: of the stochastic bits.
        slot: number of the slot, likewise.
        first: number of the first output, for a part of a larger product.

    Returns:
        [M, N] or [B, M, N], of the dtype of `a`.

    Raises:
        FormatError: other dtypes or shapes.
    """
    shape = check_operands(a, b)
    right = b.matrices() if isinstance(b, Patches) else b
    sums = _Sums(a.double(), right.double(), shape, accumulator, (key, slot, first))
    total = sums.all(0, a.shape[-1]) if a.shape[-1] else sums.zeros()
    return total.to(a.dtype)


def check_operands(a: Tensor, b: Tensor | Patches) -> tuple[int, ...]:
    """The shape of the product of two tensors of floats.

    Raises:
        FormatError: they cannot be multiplied here.
    """
    if isinstance(b, Patches):
        return check_operands(a, b.base.new_empty(()).expand(b.shape))
    if a.dtype is not b.dtype or a.dtype not in (torch.float32, torch.float64):
        raise FormatError(f"a rounded sum takes two float32 or two float64 tensors, not {a.dtype} and {b.dtype}")
    if a.dim() == b.dim() == 3 and a.shape[0] and b.shape[0] % a.shape[0] == 0:
        return (b.shape[0], *product_shape(a[0], b.new_empty(()).expand(b.shape[1:])))
    return product_shape(a, b)


def product_shape(a: Tensor, b: Tensor) -> tuple[int, ...]:
    """The shape of ``a @ b``: [M, K] with [K, N], or [B, M, K] with [B, K, N].

    Raises:
        FormatError: other shapes, or tensors on two devices.
    """
    fits = a.dim() == b.dim() and a.dim() in (2, 3) and a.shape[-1] == b.shape[-2] and a.shape[:-2] == b.shape[:-2]
    if not fits:
        raise FormatError(
            f"a product takes [M, K] with [K, N], or [B, M, K] with [B, K, N]; got {list(a.shape)} with {list(b.shape)}"
        )
    if a.device != b.device:
        raise FormatError(f"a product takes tensors on one device; got {a.device} and {b.device}")
    return (*a.shape[:-1], b.shape[-1])


def grid_of(fmt: FloatFormat | FixedPoint) -> Grid:
    """The grid of a format of sums."""
    return row_of(fmt).grid


class _Sums:
    """The running sums of all outputs of one product."""

    def __init__(
        self, a: Tensor, b: Tensor, shape: tuple[int, ...], accumulator: Accumulator, stream: tuple[int, int, int]
    ) -> None:
        self.a = a.repeat(b.shape[0] // a.shape[0], 1, 1) if a.dim() == 3 and a.shape[0] else a
        self.b, self.shape, self.depth = b, shape, a.shape[-1]
        self.options, self.rounding = accumulator, accumulator.rounding
        self.grid = grid_of(accumulator.format)
        self.product = None if accumulator.product is None else grid_of(accumulator.product)
        self.inner = None if accumulator.inner is None else _Sums(a, b, shape, accumulator.inner, stream)
        if accumulator.operands is not None:
            assert isinstance(accumulator.format, FloatFormat)
            left, right, self.emin = *(fmt.emin for fmt in accumulator.operands), accumulator.format.emin
            self.exponents = _exponents(self.a, left), _exponents(b, right)
        self.key, self.slot, first = stream
        count = torch.Size(shape).numel()
        self.index = (torch.arange(first, first + count, device=a.device) * self.depth).reshape(shape)

    def all(self, begin: int, end: int) -> Tensor:
        """The sum of some terms, as the accumulator finds it."""
        if self.options.compensated:
            return self.compensated(begin, end)
        orders = {
            Order.SEQUENTIAL: self.sequential,
            Order.PAIRWISE: self.pairwise,
            Order.BLOCKED: self.blocked,
            Order.ALIGNED: self.aligned,
        }
        return orders[self.options.order](begin, end)

    def zeros(self) -> Tensor:
        return self.a.new_zeros(self.shape)

    def term(self, k: int) -> Tensor:
        """The products of index k, rounded where the accumulator says so."""
        exact = self.a[..., :, k, None] * self.b[..., k, None, :]
        return exact if self.product is None else self.round(exact, self.product, k, "multiply")

    def round(self, x: Tensor, grid: Grid, k: int, stage: str) -> Tensor:
        return round_grid(x, grid, self.rounding.mode, self.random(k, stage))

    def add(self, x: Tensor, y: Tensor, k: int, stage: str = "add") -> Tensor:
        exact = x + y if self.grid.mantissa_bits == 52 and self.grid.emin < 0 else _odd_sum(x, y)
        return self.round(exact, self.grid, k, stage)

    def random(self, k: int, stage: str) -> Tensor | None:
        if self.rounding.mode is not RoundingMode.STOCHASTIC:
            return None
        hashes = hashed_at(self.index + k, self.key, self.slot + STAGES[stage]) >> 1
        return truncated(hashes, self.rounding.random_bits)

    def sequential(self, begin: int, end: int) -> Tensor:
        total = self.zeros()
        for k in range(begin, end):
            last = k + 1 == end or (k + 1 - begin) % self.options.chunk == 0
            total = self.add(total, self.term(k), k) if last else total + self.term(k)
        return total

    def blocked(self, begin: int, end: int) -> Tensor:
        total = self.zeros()
        of_block = self.sequential if self.inner is None else self.inner.all
        for first in range(begin, end, self.options.block):
            part = of_block(first, min(first + self.options.block, end))
            total = self.add(total, part, first, "outer")
        return total

    def aligned(self, begin: int, end: int) -> Tensor:
        total = self.zeros()
        for first in range(begin, end, self.options.block):
            exact = self.aligned_step(total, range(first, min(first + self.options.block, end)))
            total = self.round(exact, self.grid, first, "add") + 0.0  # a zero is +0
        return total

    def aligned_step(self, total: Tensor, terms: range) -> Tensor:
        """The exact sum of some terms and the total, all truncated at the same bit."""
        largest = _exponents(total, self.emin)
        left, right = self.exponents
        for k in terms:
            largest = torch.maximum(largest, left[..., :, k, None] + right[..., k, None, :])
        largest = largest.clamp(_LEAST_EXPONENT, _LARGEST_EXPONENT)
        to_integer = _power_of_two(self.options.fraction_bits - largest)
        steps = (total * to_integer).trunc()
        for k in terms:
            steps += (self.term(k) * to_integer).trunc()
        finite = steps.isfinite()
        exact = steps * _power_of_two(largest - self.options.fraction_bits)
        return exact if exact.is_meta or bool(finite.all()) else torch.where(finite, exact, self.special(total, terms))

    def special(self, total: Tensor, terms: range) -> Tensor:
        """The sum of the infinities and NaN among some terms and the total."""
        found = total.where(~total.isfinite(), 0.0)
        for k in terms:
            exact = self.term(k)
            found += exact.where(~exact.isfinite(), 0.0)
        return found

    def pairwise(self, begin: int, end: int) -> Tensor:
        if end - begin == 1:
            return self.round(self.term(begin), self.grid, begin, "leaf")
        middle = begin + (end - begin) // 2
        return self.add(self.pairwise(begin, middle), self.pairwise(middle, end), middle)

    def compensated(self, begin: int, end: int) -> Tensor:
        total, error = self.zeros(), self.zeros()
        for k in range(begin, end):
            corrected = self.add(self.term(k), -error, k, "correct")
            following = self.add(total, corrected, k)
            recovered = self.add(following, -total, k, "recover")
            error = self.add(recovered, -corrected, k, "error")
            total = following
        return total


def _odd_sum(x: Tensor, y: Tensor) -> Tensor:
    """The sum rounded to odd: where float64 cannot hold it, the one of the two around it whose last bit is odd."""
    total = x + y
    of_y = total - x
    error = (x - (total - of_y)) + (y - of_y)
    bits = total.view(torch.int64)
    inexact = (error > 0) | (error < 0)  # not where an infinite sum made it NaN
    outward = (error > 0) == (total > 0)
    odd = torch.where(inexact & (bits & 1 == 0), bits + torch.where(outward, 1, -1), bits)
    return odd.view(torch.float64)


def _exponents(x: Tensor, emin: int) -> Tensor:
    """``max(floor(log2 |x|), emin)`` as int64; of zeros, and of what is not finite, far less."""
    found = (torch.frexp(x).exponent.to(torch.int64) - 1).clamp(min=emin)
    return torch.where((x != 0) & x.isfinite(), found, _NO_EXPONENT)


def _power_of_two(exponent: Tensor) -> Tensor:
    """``2**exponent`` as float64, where that is a normal number."""
    return ((exponent + 1023) << 52).view(torch.float64)
