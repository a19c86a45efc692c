"""Roundings by generated kernels: every format and mode, all bfloat16 patterns and more, bit for bit as `quantize`."""

from typing import Any

import pytest
import torch
from torch import Tensor

from precc.backends.triton.alike_rows import alike
from precc.backends.triton.device import INTERPRETER
from precc.backends.triton.emit.random_bits import random_call, random_functions
from precc.backends.triton.emit.rounding import rounding_text
from precc.backends.triton.kernel_source import Argument, KernelSource
from precc.backends.triton.load import launch
from precc.backends.triton.rounding import ROUND_TRITON, round_triton
from precc.backends.triton.templates.cast_copies import Copy
from precc.backends.triton.templates.cast_kernels import kernels_of
from precc.errors import BackendError, FormatError
from precc.formats import FORMATS, BlockFormat, ElementFormat, Scaling, parse_format
from precc.rounding import Row, parse_rounding, quantize, row_of
from precc.rounding.random_bits import hashed_at, stream_state
from tests.test_rounding import SMALL, named, points
from tests.triton_casts import KEY, live, same_bits

MODES = ("nearest_even", "nearest_away", "toward_zero", "stochastic", "stochastic:5")
SLOT = 0xFEDCBA9876543210
FAMILIES = "nested8.4 nested6.2 power4_0.5 power8_0.3 power3_2 e8m7 e11m20 fixed20.10 e8m0 e5m30 fixed40.20 int16"
REGISTERED = [fmt for fmt in FORMATS.values() if not isinstance(fmt, BlockFormat)]


def bfloat16_patterns() -> Tensor:
    return torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)


def rounded(x: Tensor, rows: list[Row]) -> list[Tensor]:
    """By one kernel for all rows, which are rounded in one carrier."""
    copies = tuple(
        Copy(alike(row, x.dtype), tuple(range(x.dim())), strides=x.stride(), numbers=n) for n, row in enumerate(rows)
    )
    return kernels_of(tuple(x.shape), x.stride(), x.dtype, copies, INTERPRETER, "test")(x, [*live(*rows).values()])


def check_all_modes(x: Tensor, fmt: ElementFormat) -> None:
    rows = [row_of(fmt, parse_rounding(mode), slot=SLOT) for mode in MODES]
    if rows[0].is_identity(x.dtype):
        assert round_triton(x, rows[0]) is x
        return
    for row, ours in zip(rows, rounded(x, rows), strict=True):
        assert same_bits(ours, quantize(x, row, KEY)), row.mode


@pytest.mark.parametrize("fmt", REGISTERED, ids=named)
def test_registered_formats_on_all_bfloat16_patterns_in_every_mode(fmt: ElementFormat) -> None:
    check_all_modes(bfloat16_patterns().float(), fmt)


@pytest.mark.parametrize("name", FAMILIES.split())
def test_other_grids_in_every_mode(name: str) -> None:
    numbers = torch.randn(2000, dtype=torch.float64) * torch.exp2(torch.randint(-40, 40, (2000,)).double())
    ends = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan, 1e-45, -1e-40, 65504, 3.3e38, 1e-300])
    for dtype in (torch.float32, torch.float64):
        check_all_modes(torch.cat([numbers, ends.double()]).to(dtype), parse_format(name))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_16_bit_tensors_are_rounded_in_float32_and_converted_to_nearest_even(dtype: torch.dtype) -> None:
    x = bfloat16_patterns().view(torch.int16).view(dtype)
    for name in ("e4m3", "int16", "fixed20.10", "e2m1"):
        check_all_modes(x, parse_format(name))
    row = row_of(parse_format("e4m3"), scaling=Scaling("static", value=0.37))
    assert same_bits(round_triton(x, row), quantize(x, row))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("fmt", SMALL, ids=named)
def test_small_formats_on_their_codes_and_midpoints(fmt: Any, dtype: torch.dtype) -> None:
    check_all_modes(points(fmt, dtype), fmt)


def test_wide_variant_draws_the_numbers_of_elements_beyond_two_to_the_32() -> None:
    starts = torch.tensor([0, 2**32 - 4, 2**32, 5 * 2**32 + 77, 2**40])
    index = (starts[:, None] + torch.arange(8)).flatten()
    index = torch.cat([index, index[:24]])
    text = f"""import triton
import triton.language as tl


{random_functions(wide=True)}

@triton.jit
def draw(index_ptr, y_ptr, a, b, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)
    tl.store(y_ptr + at, ({random_call("tl.load(index_ptr + at)", "a", "b", 31, wide=True)}).to(tl.int64))
"""
    arguments = tuple(Argument(name, kind) for name, kind in (("index_ptr", "*i64"), ("y_ptr", "*i64")))
    drawn = torch.empty_like(index)
    launch(KernelSource("draw", "test", text, arguments, {"SIZE": 64}), (1,), [index, drawn, *stream_state(KEY, SLOT)])
    assert torch.equal(drawn, hashed_at(index, KEY, SLOT) >> 1)


def test_equal_rows_have_equal_texts_whatever_their_slots_and_static_scales() -> None:
    texts = {
        rounding_text(row_of(parse_format("e5m2"), parse_rounding("stochastic"), slot=slot), torch.float32)
        for slot in (1, 2)
    }
    assert len(texts) == 1
    first, second = (row_of(parse_format("e4m3"), scaling=Scaling("static", value=value)) for value in (0.3, 7.0))
    assert alike(first, torch.float32) is alike(second, torch.float32)
    far = row_of(parse_format("e4m3"), scaling=Scaling("static", value=1e-60))
    assert alike(far, torch.float32) is not alike(first, torch.float32)
    x = torch.randn(50) * 1e-58
    assert same_bits(round_triton(x, far), quantize(x, far))


def test_what_no_kernel_rounds_is_refused_by_name() -> None:
    x = torch.randn(8)
    with pytest.raises(BackendError, match="hysteresis"):
        round_triton(x, row_of(parse_format("e4m3"), parse_rounding("hysteresis")))
    with pytest.raises(BackendError, match="8 bits at most, not of 12"):
        round_triton(x, row_of(parse_format("power12_0.5")))
    with pytest.raises(FormatError, match="history"):
        round_triton(x, row_of(parse_format("e4m3"), scaling=Scaling("tensor", history=4)))
    with pytest.raises(FormatError, match="cannot round"):
        round_triton(x.int(), row_of(parse_format("e4m3")))


def test_the_operator_equals_that_of_the_reference() -> None:
    row = row_of(parse_format("mxfp8"), parse_rounding("stochastic"))
    plan = torch.tensor([row.values], dtype=torch.float64)
    x = torch.randn(5, 70).t()
    ours = ROUND_TRITON(x, plan, 0)
    assert same_bits(ours, torch.ops.precc.round.default(x, plan, 0))
    assert ours.stride() == torch.empty_like(x).stride()
    slow = torch.tensor([row_of(parse_format("power12_0.5")).values], dtype=torch.float64)
    with pytest.warns(Warning, match="tensor operations"):
        assert same_bits(ROUND_TRITON(x, slow, 0), torch.ops.precc.round.default(x, slow, 0))


def test_without_interpreter_and_gpu_the_way_out_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("precc.backends.triton.toolchain.interprets", lambda: False)
    with pytest.raises(BackendError, match="TRITON_INTERPRET=1"):
        round_triton(torch.randn(4), row_of(parse_format("e4m3")))
