"""Products in two passes by one of Triton's kernels: the bits of tensor operations, and what is selected."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import precc
from precc import Accumulator, Precision, ProductArithmetic, Scaling, TwoPasses, recomputed
from precc.accumulation.kernels import TENSOR_OPS
from precc.accumulation.rows import accumulator_row
from precc.accumulation.tensor_ops import product_shape
from precc.accumulation.two_pass_rule import Choice, Problem, TwoPass, compute
from precc.backends.triton.compiler import compiled
from precc.backends.triton.device import DEVICES
from precc.backends.triton.emit.activations import activation_text
from precc.backends.triton.emit.rounding import rounding_text
from precc.backends.triton.facts import CompiledFacts
from precc.backends.triton.load import launches
from precc.backends.triton.products import KERNELS, PRODUCTS_TRITON
from precc.backends.triton.templates.accumulate import Shape
from precc.backends.triton.templates.accumulate_operands import Operand
from precc.backends.triton.templates.two_pass import Passes, Question, two_pass_source
from precc.backends.triton.two_pass import why_not_fused
from precc.condition_numbers import ACTIVATIONS
from precc.formats import parse_format
from precc.rounding.row import row_of
from tests.exact_sums import same_bits
from tests.golden import check_golden

PAIRS = {
    "plain": (ProductArithmetic("e4m3", "e5m10"), ProductArithmetic("e5m10", "float32")),
    "blocks and trees": (
        ProductArithmetic("mxfp4", Accumulator(format="e5m10", order="pairwise")),
        ProductArithmetic("e4m3", Accumulator(format="e5m10", rounding="stochastic", product="bf16")),
    ),
    "given scales, random bits": (
        ProductArithmetic(
            Precision("e4m3", scaling=Scaling("static", value=0.25)),
            Accumulator(format="e6m9", order="blocked", block=4),
        ),
        ProductArithmetic(
            Precision("e5m2", rounding="stochastic"),
            Accumulator(format="bf16", order="pairwise", rounding="stochastic"),
        ),
    ),
}


def problem_of(a: Tensor, b: Tensor, **options: Any) -> Problem:
    batched, last = a.dim() == 3, a.dim() - 1

    def product(left: Tensor, right: Tensor, multiply: Any) -> Tensor:
        first = options.get("first", 0)
        found: Tensor = multiply(left, right, first) if batched else multiply(left[None], right[None], first)[0]
        return found

    axes = ((last, last - 1), (last - 1, last))
    return Problem((a, b), axes, product_shape(a, b), product, last, a.shape[-1], **options)


def matrices(dtype: torch.dtype = torch.float32, items: int = 0) -> tuple[Tensor, Tensor]:
    shape = (items,) * (items > 0)
    return torch.randn(*shape, 7, 9, dtype=dtype), torch.randn(*shape, 5, 9, dtype=dtype).transpose(-1, -2)


def check(pair: str, problem: Problem, choice: Choice) -> TwoPass:
    low, high = PAIRS[pair]
    assert not why_not_fused(problem, choice)
    with launches() as found:
        own = compute(problem, low, high, choice, 5, KERNELS)
    assert [launch.source.template for launch in found].count("two_pass") == 1
    wanted = compute(problem, low, high, choice, 5, TENSOR_OPS)
    assert same_bits(own.result, wanted.result)
    assert torch.equal(own.recomputed, wanted.recomputed)
    if wanted.condition is not None:
        assert own.condition is not None
        assert same_bits(own.condition, wanted.condition)
    return own


@pytest.mark.parametrize("numerator", ["absolute", "norms"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_both_passes_and_the_condition_have_the_bits_of_tensor_operations(activation: str, numerator: str) -> None:
    a, b = matrices()
    problem = problem_of(a, b, bias=torch.randn(5), factor=0.7)
    for tau in (2.0, math.inf):
        check("plain", problem, Choice.of(tau, None, activation, numerator, problem))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("pair", PAIRS)
def test_batches_of_every_arithmetic(pair: str, dtype: torch.dtype) -> None:
    problem = problem_of(*matrices(dtype, 2), first=3)
    found = check(pair, problem, Choice.of(3.0, None, "identity", "absolute", problem))
    assert 0 < found.share < 1


def test_what_is_selected_is_computed_again() -> None:
    problem = problem_of(*matrices())
    for select in (torch.rand(7, 5) < 0.3, torch.zeros(7, 5, dtype=torch.bool)):
        check("plain", problem, Choice.of(None, select, "identity", "absolute", problem))


def test_values_that_saturate_and_are_not_finite() -> None:
    a, b = matrices()
    a[1], a[2, 3], b[:, 1], b[2, 3] = 0.0, -0.0, 0.0, math.inf
    problem = problem_of(a * 1e3, b * 1e3)
    check("plain", problem, Choice.of(4.0, None, "gelu", "absolute", problem))


def test_what_no_one_kernel_computes_is_a_kernel_for_each_pass() -> None:
    problem = problem_of(*matrices())
    own = Choice.of(2.0, None, lambda v: torch.ones_like(v), "absolute", problem)
    assert "function of the user" in why_not_fused(problem, own)
    low, high = PAIRS["plain"]
    wanted = compute(problem, low, high, own, 0, TENSOR_OPS)
    assert same_bits(compute(problem, low, high, own, 0, KERNELS).result, wanted.result)
    empty = problem_of(torch.empty(3, 0), torch.empty(0, 2))
    assert why_not_fused(empty, Choice.of(2.0, None, "identity", "absolute", empty)) == "there is nothing to sum"


@pytest.mark.parametrize("choice", [{"tau": 3.0, "activation": "tanh"}, {"channels": (0, 2)}], ids=str)
def test_operators_of_plans(choice: dict[str, Any]) -> None:
    own = TwoPasses(*PAIRS["plain"], **choice)
    plan = torch.tensor([accumulator_row(own, 7)], dtype=torch.float64)
    a, b = (x.bfloat16() for x in matrices())
    bias = torch.randn(5).bfloat16()
    with recomputed() as wanted:
        reference = torch.ops.precc.addmm(bias, a, b, plan, 0)
    with recomputed() as found:
        assert torch.equal(PRODUCTS_TRITON["addmm"](bias, a, b, plan, 0), reference)
    assert found.share == wanted.share
    x, weight = torch.randn(1, 2, 5, 5), torch.randn(3, 2, 3, 3)
    options = (None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, plan, 0)
    reference = torch.ops.precc.convolution(x, weight, *options)
    assert torch.equal(PRODUCTS_TRITON["convolution"](x, weight, *options), reference)


def passes(low: Accumulator, high: Accumulator) -> Passes:
    rounded = Operand(torch.float32, rounding_text(row_of(parse_format("e4m3")), torch.float32), scaled=True)
    return Passes(low, high, (rounded, rounded), (Operand(torch.float32),) * 2)


QUESTIONS = (Question(True), Question(False, "gelu", False, 0.7, True), Question(False, "tanh", True), Question(False))


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
def test_every_kernel_compiles_without_spills(device: str) -> None:
    pairs = [
        (Accumulator(format="e5m10"), Accumulator(format="float32")),
        (Accumulator(format="e5m10", order="pairwise"), Accumulator(format="float32", compensated=True)),
        (precc.ACCUMULATORS["hopper_fp8"], Accumulator(format="float64")),
        (precc.ACCUMULATORS["hopper_fp8_promoted"], Accumulator(format="float32", chunk=4)),
    ]
    shape = Shape(2, 2, 200, 200, 700)
    kernels = [two_pass_source(passes(*own), asked, shape, DEVICES[device]) for own in pairs for asked in QUESTIONS]
    for source, facts in zip(kernels, compiled(kernels, DEVICES[device]), strict=True):
        assert isinstance(facts, CompiledFacts), facts
        assert not facts.spills, source.text


@pytest.mark.parametrize("device", DEVICES)
def test_a_kernel_compiles_without_spills(device: str) -> None:
    own = passes(Accumulator(format="e5m10"), Accumulator(format="float32"))
    kernels = [two_pass_source(own, QUESTIONS[2], Shape(2, 2, 200, 200, 700), DEVICES[device])]
    (facts,) = compiled(kernels, DEVICES[device])
    assert isinstance(facts, CompiledFacts), facts
    assert not facts.spills


def test_the_text_of_a_kernel() -> None:
    own = passes(Accumulator(format="e5m10"), Accumulator(format="float32"))
    source = two_pass_source(own, Question(False, "relu"), Shape(1, 1, 64, 64, 64), DEVICES["sm_90"])
    check_golden("triton_two_pass.txt", source.text.rstrip())
    assert "scaled_erfc" not in activation_text("relu")[1]
