"""Products with a rounded sum by Triton's kernels, run by its interpreter: the bits of tensor operations."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from precc import ACCUMULATORS, Accumulator
from precc.accumulation.convolution import Geometry, dgrad, fprop, wgrad
from precc.accumulation.rows import accumulator_row
from precc.accumulation.tensor_ops import accumulate_tensor_ops
from precc.backends.triton.accumulate import accumulate, selected
from precc.backends.triton.compiler import compiled
from precc.backends.triton.device import DEVICES, INTERPRETER
from precc.backends.triton.emit.rounding import rounding_text
from precc.backends.triton.facts import CompiledFacts
from precc.backends.triton.kernel_source import KernelSource
from precc.backends.triton.load import launch
from precc.backends.triton.products import PRODUCTS_TRITON
from precc.backends.triton.program import LiveRow
from precc.backends.triton.templates.accumulate import (
    Shape,
    accumulate_source,
    accumulate_values,
    grid_of_programs,
)
from precc.backends.triton.templates.accumulate_operands import Operand
from precc.errors import BackendError
from precc.formats import Scaling, parse_format
from precc.rounding import quantize
from precc.rounding.modes import parse_rounding
from precc.rounding.row import row_of
from tests.exact_sums import KEY, SLOT, same_bits
from tests.golden import check_golden
from tests.test_accumulate import FORMATS, KINDS, ROUNDINGS, cancelling, narrow, special, spread

ALL_KINDS: tuple[dict[str, Any], ...] = (
    *KINDS,
    {"order": "aligned", "block": 4, "fraction_bits": 10, "operands": "e4m3"},
    {"order": "blocked", "block": 5, "inner": Accumulator(format="e5m10", product="e6m9", chunk=2)},
    {"order": "blocked", "block": 4, "inner": replace(ACCUMULATORS["hopper_fp8"], block=2)},
)
F32 = Operand(torch.float32)


def name_of(kind: dict[str, Any]) -> str:
    return "-".join(str(value) for value in kind.values() if not isinstance(value, Accumulator)) or "fused"


def together(rows: int = 2, depth: int = 9, columns: int = 2) -> tuple[Tensor, Tensor]:
    """Operands of many kinds in one batch: the interpreter takes as long for one."""
    both: list[tuple[Tensor, Tensor]] = [
        (narrow(torch.float8_e4m3fn, rows, depth), narrow(torch.float8_e4m3fn, depth, columns)),
        (150 * narrow(torch.float8_e5m2, rows, depth), 150 * narrow(torch.float8_e4m3fn, depth, columns)),
        (spread(rows, depth), spread(depth, columns)),
        (spread(rows, depth, low=-12, high=4), spread(depth, columns, low=-12, high=4)),
        cancelling(rows, depth, columns),
        special(rows, depth, columns),
    ]
    return torch.stack([a for a, _ in both]), torch.stack([b for _, b in both])


def cases() -> Iterator[tuple[dict[str, Any], str, str]]:
    """Each kind with each rounding, and with a format in turn."""
    for number, (kind, rounding) in enumerate(itertools.product(ALL_KINDS, ROUNDINGS)):
        fmt = FORMATS[number % len(FORMATS)]
        aligned = kind.get("order") == "aligned"
        yield kind, rounding, "e8m13" if aligned and "fixed" in fmt else fmt


def check(a: Tensor, b: Tensor, accumulator: Accumulator, first: int = 0) -> None:
    wanted = accumulate_tensor_ops(a, b, accumulator, KEY, slot=SLOT, first=first)
    assert same_bits(accumulate(a, b, accumulator, KEY, slot=SLOT, first=first), wanted), accumulator


@pytest.mark.parametrize("kind", ALL_KINDS, ids=name_of)
def test_kernels_have_the_bits_of_tensor_operations(kind: dict[str, Any]) -> None:
    a, b = together()
    for own, rounding, fmt in cases():
        if own is kind and rounding in ("nearest_even", "stochastic:3"):
            check(a, b, Accumulator(format=fmt, rounding=rounding, **kind))


@pytest.mark.slow
@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("kind", ALL_KINDS, ids=name_of)
def test_all_formats_have_the_bits_of_tensor_operations(kind: dict[str, Any], rounding: str) -> None:
    a, b = together(3, 13, 5)
    for fmt in FORMATS:
        if not ("fixed" in fmt and kind.get("order") == "aligned"):
            check(a, b, Accumulator(format=fmt, rounding=rounding, **kind))


def test_float64_operands_and_sums() -> None:
    a, b = torch.randn(3, 7, dtype=torch.float64), torch.randn(7, 4, dtype=torch.float64)
    for fmt in ("float64", "e5m10"):
        check(a, b, Accumulator(format=fmt))
        check(a, b, Accumulator(format=fmt, order="pairwise"))


@pytest.mark.parametrize("depth", [0, 1, 2, 3, 5, 12])
def test_trees_of_every_shape(depth: int) -> None:
    check(torch.randn(2, depth), torch.randn(depth, 3), Accumulator(format="bf16", order="pairwise"))


def test_strides_batches_and_numbers_beyond_32_bits() -> None:
    stochastic = Accumulator(format="e5m10", rounding="stochastic:7", product="bf16")
    a, b = torch.randn(5, 8, 3).transpose(1, 2), torch.randn(10, 4, 8).transpose(1, 2)
    for first in (0, 3, 1 << 33):
        check(a, b, stochastic, first)
    check(torch.randn(3, 4)[:0], torch.randn(4, 2), stochastic)


def test_more_than_one_tile() -> None:
    check(torch.randn(515, 2), torch.randn(2, 514), Accumulator(format="e4m3", rounding="stochastic"))


def test_only_what_is_selected_counts() -> None:
    a, b = torch.randn(2, 3, 6), torch.randn(2, 6, 4)
    chosen = torch.rand(2, 3, 4) < 0.4
    for options in ({}, {"order": "pairwise"}):
        accumulator = Accumulator(format="e5m10", **options)
        found = selected(a, b, chosen, accumulator)
        assert same_bits(found[chosen], accumulate_tensor_ops(a, b, accumulator)[chosen])
    assert (selected(a, b, torch.zeros_like(chosen), accumulator) == 0).all()


@pytest.mark.parametrize("transposed", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_convolutions_of_patches(transposed: bool) -> None:
    geometry = Geometry((2, 1), (1, 0), (1, 2), transposed, (0, 0), 2)
    x, weight = torch.randn(2, 4, 6, 6), torch.randn(4, 2, 3, 2)
    accumulator = Accumulator(format="e5m10", rounding="stochastic", order="blocked", block=4)

    def by(function: Any) -> list[Tensor]:
        def multiply(a: Tensor, b: Any, first: int) -> Tensor:
            found: Tensor = function(a, b, accumulator, KEY, slot=SLOT, first=first)
            return found

        y = fprop(x, weight, geometry, multiply)
        gradient = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
        return [
            y,
            dgrad(gradient, weight, x.shape[2:], geometry, multiply),
            wgrad(gradient, x, weight.shape[2:], geometry, multiply),
        ]

    for found, wanted in zip(by(accumulate), by(accumulate_tensor_ops), strict=True):
        assert same_bits(found, wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("rounding", ["nearest_even", "stochastic"])
def test_operands_rounded_as_they_are_loaded_and_a_bias(dtype: torch.dtype, rounding: str) -> None:
    a, b = (torch.randn(3, 2, 6) * 3).to(dtype), (torch.randn(3, 6, 5) * 3).to(dtype)
    bias = torch.randn(5).to(dtype)
    rows = [
        row_of(parse_format("e4m3"), parse_rounding(rounding), slot=5),
        row_of(parse_format("e2m1"), scaling=Scaling("static", value=0.5), slot=6),
    ]
    accumulator = Accumulator(format="e5m10")
    left, right = (Operand(dtype, rounding_text(row, dtype), scaled=n == 1) for n, row in enumerate(rows))
    shape = Shape(3, 3, 2, 5, 6)
    source = accumulate_source(accumulator, left, right, shape, INTERPRETER, bias=True)
    result = a.new_empty(3, 2, 5)
    (drawn, given), device = (LiveRow(row, None, KEY, row.slot) for row in rows), torch.device("cpu")
    assert [own.reads_numbers for own in (left, right)] == [rows[0].is_stochastic, True]
    first, second = (a, *a.stride()), (b, *b.stride(), given.on(device))
    first = (*first, drawn.on(device)) if left.reads_numbers else first
    values = accumulate_values(accumulator, shape, LiveRow(None, accumulator, 0, 0), device)
    launch(source, grid_of_programs(shape, dict(source.tile)), (*first, *second, result, bias, 0, 0, 1, *values))
    carrier = torch.promote_types(dtype, torch.float32)
    x, y = quantize(a, rows[0], KEY), quantize(b, rows[1])
    total = accumulate_tensor_ops(x.to(carrier), y.to(carrier), accumulator).to(dtype)
    assert torch.equal(result, total + bias)


def test_operators_in_a_net() -> None:
    own = Accumulator(format="e5m10", rounding="stochastic")
    plan = torch.tensor([accumulator_row(own, SLOT), accumulator_row(None, SLOT)], dtype=torch.float64)
    a, b = torch.randn(3, 7).bfloat16(), torch.randn(7, 4).bfloat16()
    for row in (0, 1):
        wanted = torch.ops.precc.mm(a, b, plan, row)
        assert torch.equal(PRODUCTS_TRITON["mm"](a, b, plan, row), wanted)
    bias = torch.randn(4).bfloat16()
    wanted = torch.ops.precc.addmm(bias, a, b, plan, 0)
    assert torch.equal(PRODUCTS_TRITON["addmm"](bias, a, b, plan, 0), wanted)
    x, layer = torch.randn(2, 2, 5, 5), nn.Conv2d(2, 3, 3)
    options = ([1, 1], [0, 0], [1, 1], False, [0, 0], 1, plan, 0)
    wanted = torch.ops.precc.convolution(x, layer.weight, layer.bias, *options)
    assert torch.equal(PRODUCTS_TRITON["convolution"](x, layer.weight, layer.bias, *options), wanted)


def test_too_many_terms_in_pairs_are_refused() -> None:
    accumulator = Accumulator(format="e5m10", order="pairwise")
    accumulate_source(accumulator, F32, F32, Shape(1, 1, 2, 2, 2**17 - 1), INTERPRETER)
    with pytest.raises(BackendError, match=r"131072 terms pairwise, as in float16 pairwise: at most 131071"):
        accumulate_source(accumulator, F32, F32, Shape(1, 1, 2, 2, 2**17), INTERPRETER)


def sources(options: list[dict[str, Any]]) -> list[KernelSource]:
    shape, found = Shape(4, 1, 300, 300, 1000), []
    for own in options:
        found.append(accumulate_source(Accumulator(**own), F32, F32, shape, DEVICES["sm_90"]))
    return found


def check_compiled(kernels: list[KernelSource], device: str) -> None:
    for source, facts in zip(kernels, compiled(kernels, DEVICES[device]), strict=True):
        assert isinstance(facts, CompiledFacts), facts
        assert not facts.spills, (source.name, source.tile)
        assert "fma.rn.f64" not in facts.ptx


@pytest.mark.parametrize("device", DEVICES)
def test_kernels_compile_without_spills(device: str) -> None:
    some = [{"format": "e5m10"}, {"format": "e4m3", "order": "pairwise", "rounding": "stochastic"}]
    check_compiled(sources(some), device)


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", ALL_KINDS, ids=name_of)
def test_every_kernel_compiles_without_spills(kind: dict[str, Any], device: str) -> None:
    wide = [{"format": fmt, "rounding": rounding, **own} for own, rounding, fmt in cases() if own is kind]
    check_compiled(sources(wide), device)


def test_the_text_of_a_kernel() -> None:
    rounded = Operand(torch.bfloat16, rounding_text(row_of(parse_format("e4m3")), torch.bfloat16), scaled=True)
    accumulator = Accumulator(format="e5m10", order="blocked", block=64, rounding="stochastic")
    source = accumulate_source(accumulator, rounded, rounded, Shape(1, 1, 64, 64, 256), INTERPRETER, bias=True)
    check_golden("triton_accumulate.txt", source.text.rstrip())
    assert math.prod(source.tile.values()) == 64 * 64
