"""Which arithmetic of a tensor core gives a product of two rounded operands, and what its sums are.

Products of the values of all these formats are exact; they are added in float32, in another order than PyTorch's: of K
terms within ``(K + 3) u sum |a b|`` of the exact sum, u = 2**-24, where three are for scales by which sums are
multiplied (of tensors of 16 bits that is a product of values that were not rounded to the dtype once more).

Of 8-bit operands a Hopper GPU keeps 14 bits of a sum between promotions: every P = `ProductOptions.promotion` terms, or
fewer where a tile or a block of one scale has fewer, it is added to a float32 sum; that is within
``(P / 32 + 1) 2**-13`` of the largest sum of magnitudes of P terms (DeepSeek-AI 2024, V3, section 3.3.2; the models
``hopper_fp8..._promoted`` of `precc.accumulation.named`).

A type holds an operand if its grid does and its scales are apart from the values: one for all terms of a sum, or for a
block of them whose partial sum is then multiplied by it; or if they are powers of two that the type holds as well.
"""

import math
from dataclasses import dataclass
from enum import Enum

import torch

from precc.backends.triton.device import Device
from precc.errors import BackendError
from precc.formats import ScaleRule
from precc.rounding import Row
from precc.rounding.row import Grid

__all__ = [
    "USUAL",
    "PROMOTION",
    "Arithmetic",
    "ProductOptions",
    "KnownValues",
    "arithmetic_of",
    "fp8_of",
    "holds_codes",
    "least_terms",
]

#: Terms that a Hopper GPU sums in 8-bit products before it adds to float32; Triton's own default is all of them.
PROMOTION = 128


@dataclass(frozen=True, slots=True)
class ProductOptions:
    """How products of 8-bit operands are computed where the plan does not say it.

    Args:
        force_low: in 8 bits also where bfloat16 is faster.
        promotion: terms that are summed in 8-bit products before they are added to float32, or those of a step of the
            kernel, if they are fewer: a multiple of 32, the terms of one instruction.

    Raises:
        BackendError: another promotion, or no bool.
    """

    force_low: bool = True
    promotion: int = PROMOTION

    def __post_init__(self) -> None:
        if type(self.force_low) is not bool:
            raise BackendError(f"triton: force_low={self.force_low!r}: expected True or False")
        if type(self.promotion) is not int or self.promotion < 32 or self.promotion % 32:
            raise BackendError(
                f"triton: 8-bit products are added to float32 every promotion={self.promotion!r} terms: expected a "
                "multiple of 32, the terms of one instruction"
            )


#: Those of a backend without options.
USUAL = ProductOptions()


class Arithmetic(Enum):
    """Of a product: the type of its operands in a tensor core."""

    FP8 = "fp8"  #: e4m3 and e5m2
    BF16 = "bf16"
    FP16 = "fp16"
    TF32 = "tf32"
    IEEE = "fp32"  #: no tensor core
    DOUBLE = "fp64"


@dataclass(frozen=True, slots=True)
class _Type:
    """A type that holds grids: significand bits, smallest quantum, largest value, whether it has infinities."""

    bits: int
    k_min: int
    largest: float
    has_inf: bool

    def holds(self, grid: Grid) -> bool:
        limits = max(abs(grid.low), abs(grid.high)) <= self.largest and grid.k_min >= self.k_min
        return limits and _significand(grid) <= self.bits and (self.has_inf or not math.isinf(grid.above))


#: By name of Triton's, or kind.
_TYPES: dict[str | Arithmetic, _Type] = {
    "tl.float8e4nv": _Type(4, -9, 448.0, has_inf=False),
    "tl.float8e5": _Type(3, -16, 57344.0, has_inf=True),
    Arithmetic.BF16: _Type(8, -133, float(torch.finfo(torch.bfloat16).max), has_inf=True),
    Arithmetic.FP16: _Type(11, -24, 65504.0, has_inf=True),
    Arithmetic.TF32: _Type(11, -136, 2.0**127 * (2 - 2.0**-10), has_inf=True),
}
_OF_DTYPE = {torch.bfloat16: Arithmetic.BF16, torch.float16: Arithmetic.FP16}

#: Squares of these, summed, and of multiples of 2**-60, are normal numbers of float32.
_LARGEST_APART, _SMALLEST_APART = 2.0**48, 60


def _significand(grid: Grid) -> int:
    """Bits of the longest significand on a grid."""
    if not math.isfinite(grid.high):
        return grid.mantissa_bits + 1
    return min(grid.mantissa_bits + 1, int(max(abs(grid.low), grid.high) * 2.0**-grid.k_min).bit_length())


@dataclass(frozen=True, slots=True)
class KnownValues:
    """What is known of the values of an operand.

    Args:
        dtype: of its tensor.
        row: that rounded it; None if nothing did.
        scale_terms: how many consecutive terms of a sum have one scale, where scales are apart from the values; 0: all
            terms have; None: values come multiplied by their scales.
    """

    dtype: torch.dtype
    row: Row | None
    scale_terms: int | None = None

    @property
    def rounded(self) -> Row | None:
        """The row, where it changes anything."""
        return None if self.row is None or self.row.is_identity(self.dtype) else self.row

    def fits(self, kind: Arithmetic) -> bool:
        """Whether a type holds every value, with its scale or apart from it."""
        row = self.rounded
        if row is None or row.power or row.shift:
            return _OF_DTYPE.get(self.dtype) is kind
        if self.dtype in _OF_DTYPE and not _TYPES[_OF_DTYPE[self.dtype]].holds(row.grid):
            return False
        holds = bool(fp8_of(row)) if kind is Arithmetic.FP8 else _TYPES[kind].holds(row.grid)
        return holds and (row.granularity is None or self.is_apart(kind) or self.holds_scaled(kind))

    def is_apart(self, kind: Arithmetic) -> bool:
        """Whether sums of terms that have one scale can be multiplied by it: they neither overflow nor vanish."""
        row = self.rounded
        if row is None or row.grid.high > _LARGEST_APART or row.grid.k_min < -_SMALLEST_APART:
            return False
        return self.scale_terms is not None and self.scale_terms % least_terms(kind) == 0

    def holds_scaled(self, kind: Arithmetic) -> bool:
        """Whether a type holds the values multiplied by scales that are found from them."""
        row = self.rounded
        if row is None or not row.finds_scales or kind in (Arithmetic.FP8, Arithmetic.FP16):
            return False
        scale = row.scale
        lowest = row.grid.k_min + (math.frexp(scale.low)[1] - 1 if scale.low > 0 else -math.inf)
        return scale.chosen_rule in (ScaleRule.FLOOR, ScaleRule.CEIL) and lowest >= _TYPES[kind].k_min


def least_terms(kind: Arithmetic) -> int:
    """Terms that one instruction sums, at least."""
    return 32 if kind is Arithmetic.FP8 else 16


def fp8_of(row: Row | None) -> str:
    """The 8-bit type, by Triton's name, that holds the values of a row before their scale; empty if none does."""
    if row is None or row.power or row.shift:
        return ""
    return next((name for name in ("tl.float8e4nv", "tl.float8e5") if _TYPES[name].holds(row.grid)), "")


def holds_codes(row: Row) -> torch.dtype | None:
    """The dtype of PyTorch whose bit patterns the codes of a row are; None if they are of no 8-bit type."""
    grid = row.grid
    kind = (grid.mantissa_bits, grid.emin, grid.k_min)
    if kind == (3, -6, -9) and not math.isinf(grid.above) and grid.high > 240:
        return torch.float8_e4m3fn
    return torch.float8_e5m2 if kind == (2, -14, -16) and grid.high == 57344.0 else None


def arithmetic_of(a: KnownValues, b: KnownValues, device: Device) -> Arithmetic:
    """The quickest arithmetic in which the products of two operands are exact."""
    if torch.float64 in (a.dtype, b.dtype):
        return Arithmetic.DOUBLE
    kinds = [Arithmetic.FP8] if device.has_fp8 else []
    kinds += [Arithmetic.BF16, Arithmetic.FP16, Arithmetic.TF32]
    return next((kind for kind in kinds if a.fits(kind) and b.fits(kind)), Arithmetic.IEEE)
