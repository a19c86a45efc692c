"""The loops of the kernels against tensor operations, bit for bit: each path of the arithmetic, each length of runs."""

import pytest
import torch
from torch import Tensor

from precc.backends.cpp import round_compiled
from precc.formats import BlockFormat, Scaling, parse_format
from precc.rounding import Row, parse_rounding, quantize, row_of

MODES = ["nearest_even", "nearest_away", "toward_zero", "stochastic"]
#: Grids that saturate, with and without negative zeros and one quantum; the others end in infinities.
ELEMENTS = "e4m3 e2m1 e3m2 e4m3fnuz e8m0 binary8p3u int8 fixed8.4 fixed16.8 fixed24.10 e5m2 e5m10 bf16".split()
BLOCKS = ["mxfp8", "mxfp4", "mxint8", "bfp8.32", "bfp8.16", "bfp12.7", "nvfp4"]
THREADS = (1, 2)  #: that the kernels have
SPECIAL = [0.0, -0.0, float("inf"), -float("inf"), float("nan"), 3.4028234663852886e38, -3.4028234663852886e38, 1e-45]


def by_threads(x: Tensor, row: Row, threads: int) -> Tensor:
    """Rounded by kernels that have so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return round_compiled(x, row, 5)
    finally:
        torch.set_num_threads(before)


def patterns(count: int, seed: int) -> Tensor:
    """Any bits of float32, numbers about 1, and what is special."""
    generator = torch.Generator().manual_seed(seed)
    bits = torch.randint(-(2**31), 2**31, (count,), generator=generator, dtype=torch.int64).to(torch.int32)
    near = torch.randn(count, generator=generator) * 4
    coarse = (near * 16).round() / 16
    which = torch.randint(0, 4, (count,), generator=generator)
    x = torch.where(which == 0, bits.view(torch.float32), torch.where(which == 1, coarse, near))
    x[: len(SPECIAL)] = torch.tensor(SPECIAL)[:count]
    return x


def finite(count: int, seed: int, spread: int) -> Tensor:
    """Numbers of many magnitudes in stretches of 16: subnormal ones, large ones, zeros, and here and there a NaN."""
    generator = torch.Generator().manual_seed(seed)
    exponent = torch.randint(-spread - 20, spread, (count // 16 + 1,), generator=generator)
    x = torch.ldexp(torch.randn(count, generator=generator), exponent.repeat_interleave(16)[:count])
    x[torch.rand(count, generator=generator) < 0.05] = -0.0
    x[torch.rand(count, generator=generator) < 0.002] = torch.nan
    return x


def expect_same(x: Tensor, row: Row, bits_of_nan: bool = False, threads: tuple[int, ...] = (1,)) -> None:
    twin = quantize(x, row, 5)
    integer = torch.int64 if x.dtype is torch.float64 else torch.int32
    for count in threads:
        ours = by_threads(x, row, count)
        same = ours.contiguous().view(integer) == twin.contiguous().view(integer)
        if not bits_of_nan:
            same |= ours.isnan() & twin.isnan()
        wrong = ~same
        assert not wrong.any(), (count, x[wrong][:4], ours[wrong][:4], twin[wrong][:4])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ELEMENTS)
def test_single_values_of_all_bits(name: str, mode: str) -> None:
    row = row_of(parse_format(name), parse_rounding(mode))
    x = patterns(40_000, seed=1)
    expect_same(x, row, bits_of_nan=True, threads=THREADS)
    expect_same(x.double() * (1 + 2.0**-40), row, bits_of_nan=True, threads=THREADS)
    for count in (1, 15, 17, 100):
        expect_same(x[3 : 3 + count], row, bits_of_nan=True, threads=THREADS)


@pytest.mark.parametrize("value", [0.125, 3.0, 2.0**-126, 2.0**100])
@pytest.mark.parametrize("name", ["e4m3", "e2m1", "int8", "e5m2"])
def test_values_of_one_scale(name: str, value: float) -> None:
    fmt = parse_format(name)
    assert not isinstance(fmt, BlockFormat)
    scaled = BlockFormat(element=fmt, scaling=Scaling("static", value=value))
    expect_same(patterns(20_000, seed=2), row_of(scaled))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_of_many_magnitudes(name: str, mode: str) -> None:
    row = row_of(parse_format(name), parse_rounding(mode))
    for spread in (4, 60, 127):
        x = finite(40_000, seed=spread, spread=spread)
        if name == "nvfp4":
            x = x.nan_to_num()  # a NaN makes the whole tensor one
        for shape in [(40_000,), (16, 2500), (1000, 40), (5, 8, 1000)]:
            expect_same(x.view(shape), row, threads=THREADS)
    expect_same(x.view(200, 200).T, row, threads=THREADS)
    expect_same(x[7:39_990:3], row, threads=THREADS)
    expect_same(patterns(20_000, seed=3), row, threads=THREADS)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 8, 15, 16, 17, 24, 32, 33, 64, 1024, 1030, 3000])
@pytest.mark.parametrize("scaling", ["floor", "ceil", "nearest"])
def test_blocks_of_any_length_along_any_axis(size: int, scaling: str) -> None:
    """Magnitudes are compared pair by pair where the length is a small power of two; last blocks are shorter."""
    fmt = parse_format("e2m1")
    assert not isinstance(fmt, BlockFormat)
    scale_format = "e4m3" if scaling == "nearest" else "e8m0"
    block = BlockFormat(element=fmt, scaling=Scaling("block", size=size, scale_format=scale_format, rule=scaling))
    x = finite(3 * 37 * 211, seed=size, spread=30)
    for shape in [(3 * 37 * 211,), (3, 37, 211), (37, 633)]:
        for axis in range(len(shape)):
            expect_same(x.view(shape), row_of(block, axis=axis))
