"""Block and scaled formats, bit for bit: tensor operations and kernels against exact arithmetic, gfloat, and peers.

`exact_rounded` is written from the definitions: powers of two and roundings to a grid in rational arithmetic, quotients
and products by numpy's scalars of the carrier. The algorithms of torchao 0.18.0 and microxcaling (commit 7bc4195) are
written out in numpy; benchmarks/peers.py compares the packages themselves. Where they differ from precc, as asserted
below:

    peer, class of inputs               there                                    precc
    torchao mx: amax < 2**(emax - 126)  quotient by 2**-126, product with        2**-127 both times
                                        2**-127: about half of the value
    torchao mx: an infinity             the block has scale 2**(128 - emax),     the block is NaN
                                        the infinity saturates
    torchao nvfp4: quotient             x * ((1 / t) / s): a tie or its          x / (s * t), rounded once
                                        neighbour can fall to the other side
    torchao nvfp4: a / E / t < 2**-6    scale clamped to 2**-6, the smallest     subnormal scales down to 2**-9;
                                        normal e4m3                              below half of that, zeros
    torchao nvfp4: a tensor of zeros    0 / 0 and 1 / 0: NaN                     zeros
    microxcaling: amax next below a     log2 rounds up in float32: the scale is  the exponent's own bits
      power of two                      twice as large
    microxcaling mxint8: below -127/64  symmetric, -127/64                       -2, the lowest code
    microxcaling: -0                    sign(-0) * 0 = 0                         -0, where the element format has it
    microxcaling mxint8: a negative     -0                                       0: two's complement has one zero
      value that becomes zero
    gfloat on float32: amax next below  log2 rounds up in float32: the scale is  the exponent's own bits; the same as
      a power of two                    twice as large                           gfloat on float64

Zeros, subnormal numbers of float32 and blocks with a NaN are equal in all of them but torchao's tiny blocks.
"""

import itertools
import math
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from typing import Any

import gfloat
import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
import torch
from gfloat.formats import (
    format_info_mxfp4_e2m1,
    format_info_mxfp6_e2m3,
    format_info_mxfp6_e3m2,
    format_info_mxfp8_e4m3,
    format_info_mxfp8_e5m2,
    format_info_mxint8,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from precc.backends.cpp import round_compiled
from precc.formats import BlockFormat, FixedPoint, FloatFormat, Granularity, ScaleRule, Scaling, parse_format
from precc.rounding import Row, parse_rounding, quantize, row_of

Array = npt.NDArray[Any]
IMPLEMENTATIONS: tuple[Callable[[Tensor, Row, int], Tensor], ...] = (quantize, round_compiled)


def scaled(element: str, granularity: str, **options: Any) -> BlockFormat:
    """A block format of our own; its name tells its parts."""
    parts = [element, granularity, *(f"{key}={value}" for key, value in options.items())]
    fmt = parse_format(element)
    assert not isinstance(fmt, BlockFormat)
    return BlockFormat(name=" ".join(parts), element=fmt, scaling=Scaling(granularity, **options))


def block_format(name: str) -> BlockFormat:
    fmt = parse_format(name)
    assert isinstance(fmt, BlockFormat)
    return fmt


MX = {name: block_format(name) for name in "mxfp8_e4m3 mxfp8_e5m2 mxfp6_e3m2 mxfp6_e2m3 mxfp4_e2m1 mxint8".split()}
NVFP4 = block_format("nvfp4")
FIXED = [block_format(name) for name in ("bfp8.16", "bfp4.7", "dfp16")]
OWN = [
    scaled("e2m1", "block", size=16, scale_format="ue5m3"),
    scaled("e4m3", "block", size=16, scale_format="ue5m3", two_level=True),
    scaled("e4m3", "row", scale_format="float32"),
    scaled("int8", "tensor", scale_format="float32"),
    scaled("int4", "block", size=8, scale_format="bf16"),
    scaled("e2m1", "block", size=32, rule="ceil"),
    scaled("fixed8.6", "block", size=32, rule="ceil"),
    scaled("e5m2", "block", size=32, rule="nearest"),
    scaled("e3m2", "tensor"),
    scaled("e2m3", "channel", scale_format="e5m2"),
]
ALL = [*MX.values(), NVFP4, *FIXED, *OWN]
FLOOR = [fmt for fmt in ALL if fmt.scaling.rule is ScaleRule.FLOOR]


def named(value: object) -> str:
    return str(getattr(value, "name", getattr(value, "__name__", value)))


# --- exact arithmetic ----------------------------------------------------------------------------------------------


def floor_log2(x: Fraction) -> int:
    exponent = x.numerator.bit_length() - x.denominator.bit_length()
    return exponent - (Fraction(2) ** exponent > x)


def exact_nearest(x: Fraction, mantissa_bits: int, emin: int) -> Fraction:
    """A magnitude to nearest on a grid without end, ties to even; with one significand bit ties go up."""
    if not x:
        return x
    quantum = Fraction(2) ** (max(floor_log2(x), emin) - mantissa_bits)
    if mantissa_bits == 0:
        return math.floor(x / quantum + Fraction(1, 2)) * quantum
    return round(x / quantum) * quantum


def exact_element(x: float, fmt: FloatFormat | FixedPoint) -> float:
    """One quotient on the grid of the elements, saturating."""
    if math.isnan(x):
        return x
    if math.isinf(x):
        return fmt.max if x > 0 else fmt.low
    if isinstance(fmt, FixedPoint):
        quantum = Fraction(2) ** -fmt.fraction
        return float(min(max(round(Fraction(x) / quantum) * quantum, Fraction(fmt.low)), Fraction(fmt.max)))
    magnitude = exact_nearest(abs(Fraction(x)), fmt.mantissa_bits, fmt.emin)
    return math.copysign(float(min(magnitude, Fraction(fmt.max))), x)


def exact_power(amax: float, fmt: BlockFormat) -> float:
    """The power of two of the rules floor and ceil."""
    largest = Fraction(fmt.element.max)
    own = fmt.scaling.scale_format
    smallest = own.smallest_subnormal if own.zero else own.smallest_normal
    lowest, highest = floor_log2(Fraction(smallest)), floor_log2(Fraction(own.max))
    if not amax:
        return math.ldexp(1.0, lowest)
    exponent = floor_log2(Fraction(amax)) - floor_log2(largest)
    if fmt.scaling.rule is ScaleRule.CEIL:
        exponent += Fraction(amax) > largest * Fraction(2) ** exponent
    return math.ldexp(1.0, min(max(exponent, lowest), highest))


def exact_on_scale_grid(x: float, fmt: FloatFormat) -> float:
    if not math.isfinite(x):
        return min(x, fmt.max) if x > 0 else x
    least = Fraction(0 if fmt.zero else fmt.smallest_normal)
    return float(min(max(exact_nearest(Fraction(x), fmt.mantissa_bits, fmt.emin), least), Fraction(fmt.max)))


def exact_scale(amax: Any, tensor_amax: Any, fmt: BlockFormat) -> Any:
    """The scale of a group, as a scalar of the carrier, the type of `amax`."""
    carrier, scaling, largest = type(amax), fmt.scaling, fmt.element.max
    if not np.isfinite(amax):
        return carrier(math.nan)
    if scaling.rule is not ScaleRule.NEAREST:
        return carrier(exact_power(float(amax), fmt))
    found = amax / carrier(largest)
    if not scaling.two_level:
        return carrier(exact_on_scale_grid(float(found), scaling.scale_format))
    tensor = tensor_amax / carrier(largest * scaling.scale_format.max)
    quotient = found / tensor if tensor else carrier(0)
    return carrier(exact_on_scale_grid(float(quotient), scaling.scale_format)) * tensor


def groups(shape: tuple[int, ...], scaling: Scaling, axis: int) -> Array:
    """The number of its group for each element: coordinates that differ inside a group are left out."""
    if not shape:
        return np.zeros(shape, dtype=np.int64)
    axis = axis % len(shape)
    partner = axis - 1 if axis else 1
    number = np.zeros(shape, dtype=np.int64)
    for dim, index in enumerate(np.indices(shape)):
        divisor = {
            Granularity.TENSOR: shape[dim],
            Granularity.CHANNEL: 1 if dim == axis else shape[dim],
            Granularity.ROW: shape[dim] if dim == axis else 1,
            Granularity.BLOCK: scaling.size[1] if dim == axis else 1,
            Granularity.TILE: scaling.size[1] if dim == axis else scaling.size[0] if dim == partner else 1,
        }[scaling.granularity]
        number = number * shape[dim] + index // max(divisor, 1)
    return number


def needs_float64(scaling: Scaling) -> bool:
    """Whether float32 has no normal number for a scale, beside the 2**-127 that is found by its exponent."""
    own = scaling.scale_format
    smallest = own.smallest_subnormal if own.zero else own.smallest_normal
    below = own.emin < -126 if scaling.rule is ScaleRule.NEAREST else smallest < 2.0**-127
    return below and own.mantissa_bits < 23


def exact_rounded(x: Tensor, fmt: BlockFormat, axis: int = -1) -> Tensor:
    """`x` rounded group by group and element by element, of the dtype of `x`."""
    carrier = torch.float64 if x.dtype is torch.float64 or needs_float64(fmt.scaling) else torch.float32
    values: Array = x.to(carrier).contiguous().numpy()
    result = np.empty_like(values)
    if not values.size:
        return x.clone()
    number, element = groups(values.shape, fmt.scaling, axis), fmt.element
    assert isinstance(element, (FloatFormat, FixedPoint))
    with np.errstate(all="ignore"):
        tensor_amax = np.abs(values).max()
        order = np.argsort(number, axis=None, kind="stable")
        edges = np.flatnonzero(np.diff(number.ravel()[order])) + 1
        for members in np.split(order, edges):
            group = values.ravel()[members]
            scale = exact_scale(np.abs(group).max(), tensor_amax, fmt)
            quotients = group / (scale if scale != 0 else type(scale)(math.inf))
            rounded = np.array([exact_element(float(q), element) for q in quotients], dtype=values.dtype)
            result.ravel()[members] = rounded * scale
    return torch.from_numpy(result).to(x.dtype)


# --- comparing -----------------------------------------------------------------------------------------------------


def differs(ours: Tensor, theirs: Tensor) -> Tensor:
    """Elements whose bits are not the same; any two NaNs are."""
    integer = {8: torch.int64, 4: torch.int32, 2: torch.int16}[ours.element_size()]
    same = ours.contiguous().view(integer) == theirs.contiguous().view(integer)
    return ~(same | (ours.isnan() & theirs.isnan()))


def expect(x: Tensor, fmt: BlockFormat, wanted: Tensor, axis: int = -1, mode: str = "nearest_even") -> None:
    """Both implementations give `wanted`."""
    row = row_of(fmt, parse_rounding(mode), axis=axis, channel=axis)
    for implementation in IMPLEMENTATIONS:
        ours = implementation(x, row, 0)
        wrong = differs(ours, wanted)
        shown = [(a.item(), b.item(), c.item()) for a, b, c in zip(x[wrong], ours[wrong], wanted[wrong], strict=True)]
        assert not shown, (implementation.__name__, fmt.name, len(shown), "x, ours, exact:", shown[:4])


def mixed(rng: np.random.Generator, rows: int, columns: int, low: int, high: int, spread: int = 3) -> Array:
    """float32 rows of magnitudes about one power of two each, some elements far smaller."""
    rows_exponent = rng.integers(low, high, (rows, 1))
    exponent = rows_exponent - rng.integers(0, spread + 1, (rows, columns)) * rng.integers(0, 5, (rows, columns))
    mantissa = rng.choice([-1.0, 1.0], (rows, columns)) * rng.uniform(1, 2, (rows, columns))
    coarse = rng.random((rows, columns)) < 0.3  # few significant bits: ties and values of the grid
    mantissa = np.where(coarse, np.round(mantissa * 32) / 32, mantissa)
    return np.asarray(np.ldexp(mantissa, exponent).astype(np.float32))


@cache
def tensors() -> list[Tensor]:
    """Tensors of 8 rows: 24 of about one magnitude each, one of all magnitudes, and those with special rows."""
    rng = np.random.default_rng(11)
    found = [mixed(rng, 8, 37, base, base + 14) for base in np.linspace(-150, 106, 24).astype(int)]
    found.append(mixed(rng, 16, 80, -150, 121))
    below = np.nextafter(np.exp2(rng.integers(-140, 120, (8, 1))).astype(np.float32), np.float32(0))
    found.append(np.concatenate([below, mixed(rng, 8, 36, -160, -150)], axis=1))
    subnormal = rng.integers(0, 2**23, (8, 37)).astype(np.int32).view(np.float32)
    found += [subnormal, -subnormal * 2.0 ** -np.arange(8, dtype=np.float32)[:, None]]
    return [torch.from_numpy(np.ascontiguousarray(x)) for x in found]


# --- precc against exact arithmetic --------------------------------------------------------------------------------


@pytest.mark.parametrize("fmt", ALL, ids=named)
def test_blocks_of_all_magnitudes_equal_exact_arithmetic(fmt: BlockFormat) -> None:
    for x in tensors():
        expect(x, fmt, exact_rounded(x, fmt))


def test_largest_magnitudes_equal_exact_arithmetic() -> None:
    """Up to float32's largest number; a ceil scale can make a product infinite, as the carrier's rounding says."""
    rng = np.random.default_rng(3)
    x = torch.from_numpy(mixed(rng, 16, 37, 120, 128))
    x[0, 0], x[1, 0] = torch.finfo(torch.float32).max, -torch.finfo(torch.float32).max
    for fmt in ALL:
        expect(x, fmt, exact_rounded(x, fmt))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("fmt", ALL, ids=named)
def test_other_dtypes_equal_exact_arithmetic(fmt: BlockFormat, dtype: torch.dtype) -> None:
    rng = np.random.default_rng(5)
    double = dtype is torch.float64
    x = torch.from_numpy(mixed(rng, 12, 37, -14, 12).astype(np.float64) * (1 + 2.0**-40 * double)).to(dtype)
    expect(x, fmt, exact_rounded(x, fmt))


def test_smallest_scales_of_the_nearest_rule_equal_exact_arithmetic() -> None:
    """The scales 2**-127 and 2**-126 and the midpoint between them; e8m0 has one below float32's normal numbers."""
    fmt = scaled("e2m1", "block", size=4, rule="nearest")
    x = torch.tensor([6.0, 0.5, 0.0, 0.0]) * 2.0**-127
    expect(x, fmt, x)  # all are multiples of the scale 2**-127
    factors = torch.tensor([1.0, 1.2, 1.49, 1.5, 1.51, 2.0, 0.5, 0.3, 3.0])[:, None]
    x = (6 * factors * torch.tensor([1.0, -0.5, 0.25, 0.1])).double() * 2.0**-127
    expect(x.float(), fmt, exact_rounded(x.float(), fmt))


POWERS = ["e5m0", "e9m0", "e10m0", "e11m0"]
SCALE_FORMATS = ["bf16", "fp16", "tf32", "e5m2", "e4m3", "e2m1", "e11m4", "float64", *POWERS]


@pytest.mark.parametrize(
    ("scale_format", "rule"), [*((name, "nearest") for name in SCALE_FORMATS), *((name, "floor") for name in POWERS)]
)
def test_other_scale_formats_equal_exact_arithmetic(scale_format: str, rule: str) -> None:
    """Also those with exponents beyond float32's, which are computed in float64."""
    fmt = scaled("e2m1", "block", size=16, scale_format=scale_format, rule=rule)
    expect(torch.zeros(2, 32), fmt, torch.zeros(2, 32))
    for x in tensors()[::4]:
        expect(x, fmt, exact_rounded(x, fmt))


# --- gfloat --------------------------------------------------------------------------------------------------------

BLOCKS = 10_000
GFLOAT: dict[str, gfloat.BlockFormatInfo] = {
    info.name: info
    for info in (
        format_info_mxfp4_e2m1,
        format_info_mxfp6_e2m3,
        format_info_mxfp6_e3m2,
        format_info_mxfp8_e4m3,
        format_info_mxfp8_e5m2,
        format_info_mxint8,
    )
}
#: Blocks, counted from the first, of zeros, of subnormal numbers, and with an amax next below a power of two.
ZEROS, SUBNORMAL, BELOW = slice(0, 50), slice(50, 250), slice(250, 450)


@cache
def peer_blocks() -> Array:
    """10,000 blocks of 32 finite float32 numbers from 2**-149 to 2**121, shared by all comparisons."""
    rng = np.random.default_rng(2024)
    x = mixed(rng, BLOCKS, 32, -149, 121)
    x[ZEROS] = 0.0
    x[SUBNORMAL] = rng.integers(1, 2**23, (200, 32)).astype(np.int32).view(np.float32)
    exponent = rng.choice([-1, 1], 200) * rng.integers(8, 100, 200)  # far enough from 0 for a coarse logarithm
    x[BELOW] = np.ldexp(rng.uniform(-1, 1, (200, 32)), exponent[:, None] - 1).astype(np.float32)
    x[BELOW, 7] = np.nextafter(np.exp2(exponent).astype(np.float32), np.float32(0))
    return x


def ours(x: Array, fmt: BlockFormat) -> Array:
    """The rounding by precc of blocks, by the kernel; the tensor operations are the same on all tensors above."""
    return np.asarray(round_compiled(torch.from_numpy(x), row_of(fmt)).numpy())


def different_blocks(a: Array, b: Array) -> Array:
    """Which blocks differ in any element's bits."""
    return np.asarray(differs(torch.from_numpy(a), torch.from_numpy(b.astype(np.float32))).any(-1).numpy())


def by_gfloat(x: Array, info: gfloat.BlockFormatInfo) -> Array:
    """The scale by gfloat of each block, and its rounding of all of them at once."""
    scales = np.array([gfloat.compute_scale_amax(info.etype.emax, block) for block in x])[:, None]
    return np.asarray(gfloat.round_ndarray(info.etype, x / scales, gfloat.RoundMode.TiesToEven, True) * scales)


@pytest.mark.parametrize("name", MX)
def test_gfloat_gives_the_same_blocks(name: str) -> None:
    x, info = peer_blocks(), GFLOAT[name]
    theirs = by_gfloat(x.astype(np.float64), info)
    assert not different_blocks(ours(x, MX[name]), theirs).any()
    for block, wanted in list(zip(x.astype(np.float64), theirs, strict=True))[::400]:
        by_block = gfloat.quantize_block(info, block, gfloat.compute_scale_amax)
        assert np.array_equal(by_block, wanted)


def test_gfloat_on_float32_takes_a_scale_too_large_below_powers_of_two() -> None:
    """The only class of inputs that differ: the float32 logarithm of amax rounds up to an integer."""
    x, fmt = peer_blocks(), MX["mxfp8_e4m3"]
    amax = np.abs(x).max(-1)
    scales = np.array([gfloat.compute_scale_amax(8, block) for block in x[amax > 0]])
    exact = np.exp2(np.clip(np.frexp(amax[amax > 0])[1] - 9.0, -127, 127))
    assert np.array_equal(scales[scales != exact], 2 * exact[scales != exact])
    assert (scales != exact).sum() == log_rounds_up(amax).sum() == 200
    assert np.array_equal(np.flatnonzero(log_rounds_up(amax)), np.arange(BLOCKS)[BELOW])
    assert different_blocks(ours(x, fmt), by_gfloat(x.astype(np.float64), GFLOAT[fmt.name])).sum() == 0


def log_rounds_up(amax: Array) -> Array:
    """Whether log2 in float32 reaches the next integer."""
    positive = np.where(amax > 0, amax, 1.0)
    rounded = np.log2(positive.astype(np.float64)).astype(np.float32)
    return np.asarray((np.floor(rounded) != np.frexp(positive)[1] - 1) & (amax > 0))


# --- torchao and microxcaling, as published ------------------------------------------------------------------------

#: The largest exponent, largest value and an independent rounding of each element format.
ELEMENTS: dict[str, tuple[int, float, Any]] = {
    "mxfp8_e4m3": (8, 448.0, ml_dtypes.float8_e4m3fn),
    "mxfp8_e5m2": (15, 57344.0, ml_dtypes.float8_e5m2),
    "mxfp6_e3m2": (4, 28.0, ml_dtypes.float6_e3m2fn),
    "mxfp6_e2m3": (2, 7.5, ml_dtypes.float6_e2m3fn),
    "mxfp4_e2m1": (2, 6.0, ml_dtypes.float4_e2m1fn),
}


def torchao_mx(x: Array, name: str) -> Array:
    """From torchao 0.18.0, mx_formats/mx_tensor.py: to_mx with ScaleCalculationMode.FLOOR, then to_dtype."""
    emax, largest, element = ELEMENTS[name]
    with np.errstate(all="ignore"):
        amax = np.abs(x).max(-1, keepdims=True)
        exponent = np.clip((amax.view(np.int32) >> 23) - 127 - emax, -127, 128)
        biased = np.where(np.isnan(amax), 255, exponent + 127).astype(np.int32)
        divisor = np.maximum((biased << 23).view(np.float32), np.float32(2.0**-126))
        elements = np.clip(x / divisor, -largest, largest).astype(element).astype(np.float32)
        scale = np.where(biased == 255, np.float32(np.nan), np.exp2(biased - 127.0).astype(np.float32))
        return np.asarray(elements * scale)


def torchao_nvfp4(x: Array) -> Array:
    """From torchao 0.18.0, mx_formats/nvfp4_tensor.py: per_tensor_amax_to_scale, nvfp4_quantize, dequantize."""
    one, smallest = np.float32(1), np.float32(2.0**-6)  # torch.finfo(torch.float8_e4m3fn).tiny
    with np.errstate(all="ignore"):
        tensor = np.abs(x).max() / np.float32(448 * 6)
        scale = np.abs(x).max(-1, keepdims=True) / np.float32(6) / tensor
        scale = np.clip(scale, smallest, np.float32(448)).astype(ml_dtypes.float8_e4m3fn).astype(np.float32)
        quotient = np.clip(x * ((one / tensor) / scale), -6, 6)
        return np.asarray(quotient.astype(ml_dtypes.float4_e2m1fn).astype(np.float32) * (tensor * scale))


def microxcaling_mx(x: Array, name: str) -> Array:
    """From microxcaling, mx/mx_ops.py: _quantize_mx(scale_bits=8, round="even") with _quantize_elemwise_core."""
    emax, largest, mantissa_bits = (0, 127 / 64, 6) if name == "mxint8" else (*ELEMENTS[name][:2], int(name[-1]))
    with np.errstate(all="ignore"):
        amax = np.abs(x).max(-1, keepdims=True)
        shared = np.floor(log2_float32(np.where(amax == 0, np.float32(2.0**-126), amax))) - np.float32(emax)
        shared = np.where(shared > 127, np.float32(np.nan), np.maximum(shared, np.float32(-127)))
        scale = np.exp2(shared.astype(np.float64)).astype(np.float32)
        quotient = x / scale
        unit: Any = np.float32(1)
        if name != "mxint8":
            exponents = np.floor(log2_float32(np.where(quotient == 0, unit, np.abs(quotient))))
            least = 2 - 2 ** (int(name[-3]) - 1)
            unit = np.exp2(np.maximum(exponents, np.float32(least)).astype(np.float64)).astype(np.float32)
        steps = np.abs(quotient / unit * np.float32(2**mantissa_bits))
        tie = (steps - np.float32(0.5)) % 2 == 0
        rounded = np.sign(quotient) * (np.floor(steps + np.float32(0.5)) - tie)
        elements = np.clip(rounded / np.float32(2**mantissa_bits) * unit, -largest, largest)
        return np.asarray((elements * scale).astype(np.float32))


def log2_float32(x: Array) -> Array:
    """The logarithm in float32, correctly rounded, whatever the machine's own does."""
    return np.asarray(np.log2(x.astype(np.float64)).astype(np.float32))


@pytest.mark.parametrize(("name", "count"), list(zip(ELEMENTS, (866, 1367, 567, 469, 381), strict=True)))
def test_torchao_mx_differs_only_in_tiny_blocks(name: str, count: int) -> None:
    """Where the scale is 2**-127 its quotient is by 2**-126 and its product with 2**-127: half a rounding to 2**-126.

    Such blocks are equal where all elements become zero either way.
    """
    x, element = peer_blocks(), name.partition("_")[2]
    tiny = np.abs(x).max(-1) < 2.0 ** (ELEMENTS[name][0] - 126)
    theirs = torchao_mx(x, name)
    different = different_blocks(ours(x, MX[name]), theirs)
    assert not different[~tiny].any()
    assert different[tiny].sum() == count
    coarser = scaled(element, "static", value=2.0**-126)
    assert not different_blocks(ours(x[tiny], coarser), theirs[tiny] * 2).any()


def test_torchao_mx_halves_a_tiny_block() -> None:
    x = np.full((1, 32), 2.0**-125, dtype=np.float32)
    assert (ours(x, MX["mxfp4_e2m1"]) == x).all()
    assert (torchao_mx(x, "mxfp4_e2m1") == x / 2).all()


@pytest.mark.parametrize("name", ELEMENTS)
def test_torchao_mx_on_blocks_that_are_not_finite(name: str) -> None:
    """The same for NaN; an infinity stays one and leaves the others a scale of 2**(128 - emax)."""
    x = np.ones((3, 32), dtype=np.float32)
    x[0, 5], x[1, 6], x[2, 7] = np.nan, np.inf, -np.inf
    theirs, rounded = torchao_mx(x, name), ours(x, MX[name])
    assert np.isnan(rounded).all()
    assert np.isnan(theirs[0]).all()
    assert (theirs[1, 6], theirs[2, 7]) == (np.inf, -np.inf)
    assert (np.delete(theirs[1], 6) == 0).all()


@cache
def nvfp4_blocks() -> Array:
    """10,000 blocks of 16 about the magnitudes that a scale of e4m3 can hold beside the largest."""
    x = mixed(np.random.default_rng(17), BLOCKS, 16, -14, 6)
    x[:20] = 0.0
    return x


def test_torchao_nvfp4_differs_at_midpoints_and_in_clamped_blocks() -> None:
    x = nvfp4_blocks()
    theirs, rounded = torchao_nvfp4(x), ours(x, NVFP4)
    tensor = np.abs(x).max() / np.float32(448 * 6)
    wanted = np.abs(x).max(-1) / np.float32(6) / tensor
    clamped = wanted < 2.0**-6 * (1 - 2.0**-5)  # those above round to the smallest normal number by themselves
    different = differs(torch.from_numpy(rounded), torch.from_numpy(theirs)).numpy()
    assert different[clamped].any(-1).sum() == NVFP4_CLAMPED
    scale = tensor * wanted.astype(ml_dtypes.float8_e4m3fn).astype(np.float32)
    quotient = np.abs(x / np.where(scale == 0, np.float32(np.inf), scale)[:, None])
    nearest_midpoint = np.abs(quotient[..., None] / MIDPOINTS - 1).min(-1)
    at_midpoint = different & ~clamped[:, None]
    assert (nearest_midpoint[at_midpoint] < 2.0**-21).all()
    assert at_midpoint.sum() == NVFP4_MIDPOINTS


#: Midpoints of float4_e2m1fn.
MIDPOINTS = np.array([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0])
NVFP4_CLAMPED, NVFP4_MIDPOINTS = 2374, 48


def test_torchao_nvfp4_examples() -> None:
    x = np.zeros((2, 16), dtype=np.float32)
    x[0, 0], x[1, 0] = 2688.0, 6 * 2.0**-8  # t = 1; the second block's own scale is the subnormal 2**-8
    assert ours(x, NVFP4)[1, 0] == x[1, 0]
    assert torchao_nvfp4(x)[1, 0] == 1.5 * 2.0**-6  # 6 * 2**-8 / 2**-6 = 1.5
    zeros = np.zeros((2, 16), dtype=np.float32)
    assert (ours(zeros, NVFP4) == 0).all()
    assert np.isnan(torchao_nvfp4(zeros)).all()


@pytest.mark.parametrize("name", MX)
def test_microxcaling_differs_in_named_classes(name: str) -> None:
    """Scales twice as large below powers of two; the sign of zero; in mxint8 no code below -127/64."""
    x, signed_zero = peer_blocks(), name != "mxint8"
    theirs, rounded = microxcaling_mx(x, name), ours(x, MX[name])
    different = differs(torch.from_numpy(rounded), torch.from_numpy(theirs)).numpy()
    doubled = log_rounds_up(np.abs(x).max(-1))
    assert doubled.sum() == different[doubled].any(-1).sum() == 200
    different &= ~doubled[:, None]
    zero = different & (rounded == 0) & (theirs == 0)
    assert (np.signbit(rounded[zero]) == signed_zero).all()
    assert zero.sum() == (1377 if signed_zero else 29786)
    lowest = different & ~zero
    assert (theirs[lowest] == rounded[lowest] * np.float32(127 / 128)).all()  # -127/64 for -2
    assert lowest.sum() == (0 if signed_zero else 273)


def test_microxcaling_examples() -> None:
    x = np.zeros((3, 32), dtype=np.float32)
    x[0, :2] = np.nextafter(np.float32(2.0**20), np.float32(0)), 2.0**9
    x[1, :2] = -1.999, -0.0
    int8, rounded = microxcaling_mx(x, "mxint8"), ours(x, MX["mxint8"])
    assert (rounded[1, 0], int8[1, 0]) == (-2.0, -127 / 64)
    e4m3 = ours(x, MX["mxfp8_e4m3"]), microxcaling_mx(x, "mxfp8_e4m3")
    assert (e4m3[0][0, 0], e4m3[1][0, 0]) == (448 * 2.0**11, 2.0**20)
    assert (np.signbit(e4m3[0][1, 1]), np.signbit(e4m3[1][1, 1])) == (True, False)
    assert all((values[2] == 0).all() for values in e4m3)
    x[0, 3], x[1, 3] = np.nan, np.inf
    for values in (ours(x, MX["mxfp8_e4m3"]), microxcaling_mx(x, "mxfp8_e4m3")):
        assert np.isnan(values[:2]).all()
        assert (values[2] == 0).all()


# --- granularities and layouts -------------------------------------------------------------------------------------

SHAPES = [(13,), (5, 11), (3, 5, 7), (2, 3, 5, 4)]
GRANULARITIES: list[dict[str, Any]] = [
    {"granularity": "tensor"},
    {"granularity": "channel"},
    {"granularity": "row"},
    {"granularity": "block", "size": 1},
    {"granularity": "block", "size": 4},
    {"granularity": "block", "size": 100},
    {"granularity": "tile", "size": (2, 3)},
    {"granularity": "tile", "size": (1, 4)},
    {"granularity": "tile", "size": 16},
]


def varied(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    x = torch.randn(shape, generator=generator)
    return x * torch.exp2(torch.randint(-9, 9, shape, generator=generator).float())


def by_hand(x: Tensor, fmt: BlockFormat, axis: int) -> Tensor:
    """Each group cut out and rounded as a tensor of its own."""
    own = Scaling("tensor", scale_format=fmt.scaling.scale_format, rule=fmt.scaling.rule)
    row = row_of(BlockFormat(name="one group", element=fmt.element, scaling=own))
    result, flat = torch.empty(x.numel(), dtype=x.dtype), x.reshape(-1)
    number = torch.from_numpy(groups(tuple(x.shape), fmt.scaling, axis)).reshape(-1)
    order = number.argsort(stable=True)
    for members in order.split(number.unique(return_counts=True)[1].tolist()):
        result[members] = quantize(flat[members], row)
    return result.reshape(x.shape)


@pytest.mark.parametrize("options", GRANULARITIES, ids=lambda options: " ".join(map(str, options.values())))
def test_every_granularity_along_every_axis(options: dict[str, Any]) -> None:
    for shape in SHAPES[options["granularity"] == "tile" :]:
        x = varied(*shape)
        for axis, scale_format in itertools.product(range(-len(shape), len(shape)), ("e8m0", "ue5m3")):
            fmt = scaled("e2m1", scale_format=scale_format, **options)
            wanted = by_hand(x, fmt, axis)
            expect(x, fmt, wanted, axis)
            if axis >= 0:
                assert not differs(exact_rounded(x, fmt, axis), wanted).any()
                named_axis = scaled("e2m1", scale_format=scale_format, axis=axis, **options)
                expect(x, named_axis, wanted)


@pytest.mark.parametrize("size", [(16, 16), (48, 48), (16, 48)], ids=str)
@pytest.mark.parametrize("element", ["e4m3", "int8"])
def test_tiles_of_matrices_and_convolution_weights(size: tuple[int, int], element: str) -> None:
    scale_format = "float32" if element == "int8" else "e8m0"
    fmt = scaled(element, "tile", size=size, scale_format=scale_format)
    for shape in ((100, 130), (48, 96), (7, 5), (50, 49, 3, 3), (16, 3, 3, 3)):
        x = varied(*shape)
        for axis in (0, 1):
            expect(x, fmt, by_hand(x, fmt, axis), axis)


def test_tile_along_the_first_axis_pairs_it_with_the_second() -> None:
    x = torch.ones(4, 4)
    x[0, 3] = 64.0
    rounded = quantize(x, row_of(scaled("e2m1", "tile", size=(2, 4)), axis=0))
    assert (rounded[:, 2:] == torch.tensor([[0.0, 64.0]] + [[0.0, 0.0]] * 3)).all()
    assert (rounded[:, :2] == 1).all()


@pytest.mark.parametrize("fmt", [*MX.values(), NVFP4, *FIXED, *OWN[:4]], ids=named)
def test_layouts_in_memory(fmt: BlockFormat) -> None:
    base = varied(6, 10, 14)
    views = {
        "transposed": base.transpose(0, 2),
        "every second": base[::2, 1:, ::3],
        "expanded": base[:, :1].expand(6, 10, 14),
        "from the end": base.flip(2)[..., 3:],
        "channels last": varied(2, 5, 4, 3).to(memory_format=torch.channels_last),
        "one number expanded": torch.tensor(0.7).expand(3, 5),
    }
    for name, x in views.items():
        row = row_of(fmt, axis=1, channel=1)
        wanted = quantize(x.contiguous(), row)
        for implementation in IMPLEMENTATIONS:
            rounded = implementation(x, row, 0)
            assert rounded.shape == x.shape, name
            assert not differs(rounded, wanted).any(), name


@pytest.mark.parametrize("fmt", ALL, ids=named)
def test_no_elements_and_no_dimensions(fmt: BlockFormat) -> None:
    for shape in ((0,), (0, 5), (3, 0, 4)):
        for implementation in IMPLEMENTATIONS:
            assert implementation(torch.empty(shape), row_of(fmt), 0).shape == shape
    for number in (0.0, -0.0, 1.7, -1e-40, 3e30):
        x = torch.tensor(number)
        expect(x, fmt, exact_rounded(x, fmt))


@pytest.mark.parametrize("fmt", ALL, ids=named)
def test_groups_of_zeros_and_of_subnormal_numbers(fmt: BlockFormat) -> None:
    x = varied(4, 64)
    x[0, :32], x[1], x[2, 32:] = 0.0, -0.0, 0.0
    expect(x, fmt, exact_rounded(x, fmt))
    assert (quantize(x, row_of(fmt))[1] == 0).all()
    expect(torch.zeros(3, 40), fmt, torch.zeros(3, 40))
    subnormal = torch.from_numpy(np.arange(256, dtype=np.int32).reshape(4, 64).view(np.float32).copy())
    expect(subnormal, fmt, exact_rounded(subnormal, fmt))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("fmt", ALL, ids=named)
def test_a_group_that_is_not_finite_becomes_nan_and_no_other(fmt: BlockFormat, bad: float) -> None:
    """With two levels no group has a scale then, since the tensor has none: all become NaN."""
    x = varied(4, 64)
    number = torch.from_numpy(groups((4, 64), fmt.scaling, -1))
    hit = number == number[2, 37]
    wanted = exact_rounded(x, fmt)
    x[2, 37] = bad
    wanted[hit | fmt.scaling.two_level] = math.nan
    expect(x, fmt, wanted)


# --- properties ----------------------------------------------------------------------------------------------------

SEEDS = st.integers(0, 2**32 - 1)
PROPERTY = settings(max_examples=25, deadline=None)


def random_matrix(seed: int, low: int = -3, high: int = 3) -> Tensor:
    return torch.from_numpy(mixed(np.random.default_rng(seed), 3, 37, low, high))


@pytest.mark.parametrize("fmt", ALL, ids=named)
@PROPERTY
@given(seed=SEEDS, shift=st.integers(-5, 5))
def test_a_power_of_two_passes_through(fmt: BlockFormat, seed: int, shift: int) -> None:
    """Where neither the scales nor the values leave their normal ranges: ue5m3 has scales from 2**-14 to 2**17."""
    x = random_matrix(seed)
    row = row_of(fmt, channel=0)
    assert not differs(quantize(x * 2.0**shift, row), quantize(x, row) * 2.0**shift).any()


@pytest.mark.parametrize("fmt", FLOOR, ids=named)
@PROPERTY
@given(seed=SEEDS, low=st.integers(-150, 110))
def test_floor_rule_is_idempotent(fmt: BlockFormat, seed: int, low: int) -> None:
    """Rounding keeps the exponent of amax, since its power of two is on the grid and beyond E there is saturation.

    The two's complement of fixed point has -2 beyond its largest value: a block that reaches it has twice the scale
    next time, so there only positive values are taken. Scales of the rule nearest move with amax: nothing is claimed.
    """
    x = random_matrix(seed, low, low + 6)
    x = x.abs() if isinstance(fmt.element, FixedPoint) else x
    once = quantize(x, row_of(fmt))
    assert not differs(quantize(once, row_of(fmt)), once).any()


def test_fixed_point_that_reaches_its_lowest_value_is_not_idempotent() -> None:
    x = torch.tensor([-1.999, 1 + 1 / 64])
    once = quantize(x, row_of(MX["mxint8"]))
    assert once.tolist() == [-2.0, 1 + 1 / 64]
    assert quantize(once, row_of(MX["mxint8"])).tolist() == [-2.0, 1.0]


@pytest.mark.parametrize("fmt", [fmt for fmt in ALL if fmt.scaling.rule is not ScaleRule.NEAREST], ids=named)
@PROPERTY
@given(seed=SEEDS, low=st.integers(-150, 110))
def test_error_of_a_group_is_bounded(fmt: BlockFormat, seed: int, low: int) -> None:
    """By half the quantum of E, or by what the floor rule leaves beyond E, in scales."""
    x = random_matrix(seed, low, low + 6)
    error = (quantize(x, row_of(fmt, channel=0)).double() - x.double()).abs()
    number = torch.from_numpy(groups(tuple(x.shape), fmt.scaling, 0 if fmt.name.endswith("channel") else -1))
    top = 2.0 ** (math.frexp(fmt.element.max)[1] - 1)
    quantum = 2.0**-fmt.element.fraction if isinstance(fmt.element, FixedPoint) else top * 2.0 ** -mantissa_bits(fmt)
    beyond = 2 * top - fmt.element.max if fmt.scaling.rule is ScaleRule.FLOOR else 0.0
    for group in number.unique():
        scale = exact_power(x[number == group].abs().max().item(), fmt)
        assert error[number == group].max().item() <= scale * max(quantum / 2, beyond)


def mantissa_bits(fmt: BlockFormat) -> int:
    assert isinstance(fmt.element, FloatFormat)
    return fmt.element.mantissa_bits


# --- stochastic ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fmt", [*MX.values(), NVFP4, *FIXED], ids=named)
def test_stochastic_rounding_of_blocks_is_unbiased(fmt: BlockFormat) -> None:
    """Means of 80,000 draws within 4 standard errors, of each of 32 values: each holds with 99.994% confidence.

    The amax of every block is 1.45, which no element format saturates at.
    """
    generator = torch.Generator().manual_seed(1)
    block = torch.rand(32, generator=generator) * 2.8 - 1.4
    block[::7] = 1.45
    x, keys = block.repeat(20_000, 1), (1, 2, 3, 2**63)
    row = row_of(fmt, parse_rounding("stochastic"), slot=99)
    draws = torch.cat([round_compiled(x, row, key) for key in keys]).double()
    assert not differs(quantize(x[:50], row, 1), draws[:50].float()).any()
    error = (draws.mean(0) - block.double()).abs()
    assert (error <= 4 * draws.std(0) / len(draws) ** 0.5).all()
    assert (draws.std(0) > 0).sum() > 25


def test_a_scale_of_two_levels_that_float32_cannot_find() -> None:
    """448 times the largest bfloat16 is beyond float32; values in the middle of their range keep their precision."""
    x = torch.linspace(0.5, 0.9, 31).reshape(1, -1)
    x = torch.cat([x, torch.tensor([[1.0]])], 1)
    rounded = quantize(x, row_of(scaled("bfloat16", "row", scale_format="e4m3", two_level=True)))
    assert ((rounded - x).abs()[:, :-1] <= 2.0**-8 * x[:, :-1]).all()
