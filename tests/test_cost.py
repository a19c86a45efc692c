"""Costs of a plan: the published points, laws between them, and totals by hand."""

import itertools
import math
from dataclasses import asdict

import pytest

import precc
from precc import Accumulator, PrecisionPlan
from precc.accumulation.named import ACCUMULATORS
from precc.assignment.candidates import ACCUMULATOR_CANDIDATES, CANDIDATES
from precc.cost.bit_ops import BitOps
from precc.cost.cost_model import CostModel
from precc.cost.cost_of_plan import cost_of
from precc.cost.energy import Energy
from precc.cost.memory import Memory
from precc.cost.work import ProductWork, StepWork, TensorWork
from precc.errors import PlanError
from precc.formats import FORMATS
from precc.precision import Precision
from precc.slots import Slot

#: In units in which `pytest.approx` tells costs apart: its absolute tolerance is 1e-12.
PICOJOULES = Energy(**{name: joules * 1e12 for name, joules in asdict(Energy()).items()})

MODELS = [BitOps(), Energy(), Memory(), Memory(training=False)]


def slots(*names: str) -> tuple[Slot, ...]:
    return tuple(Slot.parse(name) for name in names)


def product_of(multiply_adds: int, *names: str) -> ProductWork:
    return ProductWork(slots(*names), (0,) * len(names), multiply_adds, 1)


ONE = product_of(1, "fc/product/fprop.input", "fc/product/fprop.weight")
READERS = {
    "weight": slots("fc/product/fprop.weight", "fc/product/dgrad.weight"),
    "forward": slots("fc/product/fprop.input"),
    "saved": slots("fc/product/fprop.input", "fc/product/wgrad.input"),
    "gradient": slots("fc/product/dgrad.grad_output", "fc/product/wgrad.grad_output"),
    "of dgrad_a": slots("product/fprop.b", "product/dgrad_a.b"),
    "of dgrad_b": slots("product/dgrad_b.a"),
    "attention": slots("attention/fprop.key"),
    "attention's gradient": slots("attention/dgrad.grad_output"),
    "weight that is also an input": slots("a/product/fprop.weight", "b/product/fprop.input"),
}

# Two layers that read one activation, of which `b` is frozen: three products more than the forward.
STEP = StepWork(
    products=(
        product_of(600, "a/product/fprop.input", "a/product/fprop.weight"),
        product_of(1200, "b/product/fprop.input", "b/product/fprop.weight"),
        product_of(1200, "b/product/dgrad.grad_output", "b/product/dgrad.weight"),
        product_of(600, "a/product/wgrad.grad_output", "a/product/wgrad.input"),
    ),
    tensors=(
        TensorWork(slots("a/product/fprop.input", "b/product/fprop.input", "a/product/wgrad.input"), 100),
        TensorWork(slots("a/product/fprop.weight"), 60),
        TensorWork(slots("b/product/fprop.weight", "b/product/dgrad.weight"), 120),
        TensorWork(slots("a/product/wgrad.grad_output"), 10),
        TensorWork(slots("b/product/dgrad.grad_output"), 20),
    ),
)
LOW = {"b/product/fprop.input": "int8", "b/product/fprop.weight": "int8", "b/product/dgrad.weight": "bf16"}
PLAN = PrecisionPlan("fp16", LOW, accumulators={"b/product/fprop.accumulator": "fixed32.0"})


def multiply(first: str, second: str, model: CostModel = PICOJOULES) -> float:
    return model.product(ONE, (0, 1), Precision(first), Precision(second))


def summed(accumulator: Accumulator | str | None, model: CostModel = PICOJOULES) -> float:
    return model.sums(ONE, None if accumulator is None else precc.parse_accumulator(accumulator))


# --- energy


@pytest.mark.parametrize(
    ("fmt", "picojoules"), [("float32", 3.7), ("float16", 1.1), ("int32", 3.1), ("int8", 0.2), ("fixed8.6", 0.2)]
)
def test_multiplications_have_the_published_energies(fmt: str, picojoules: float) -> None:
    assert multiply(fmt, fmt) == pytest.approx(picojoules, rel=1e-12)


@pytest.mark.parametrize(
    ("accumulator", "picojoules"),
    [(None, 0.9), ("float32", 0.9), ("float16", 0.4), ("bfloat16", 0.4), ("fixed32.0", 0.1), ("fixed8.4", 0.03)],
)
def test_additions_have_the_published_energies(accumulator: str | None, picojoules: float) -> None:
    assert summed(accumulator) == pytest.approx(picojoules, rel=1e-12)


def test_dram_takes_640_picojoules_for_32_bits() -> None:
    tensor = TensorWork(READERS["saved"], 1)
    assert PICOJOULES.copy(tensor, Precision("float32")) == pytest.approx(640, rel=1e-12)
    assert Energy().copy(tensor, Precision("float32")) * 1e12 == pytest.approx(640, rel=1e-12)
    assert Energy(dram=1.0).copy(TensorWork(READERS["saved"], 32), Precision("mxfp8")) == 32 * 8.25
    assert Energy(dram=1.0).copy(tensor, Precision("e4m3", scaling="tensor")) == 8
    assert Energy(dram=1.0).copy(tensor, Precision("e4m3", scaling=precc.Scaling("block", size=16))) == 8.5


def test_between_the_points_is_a_power_law() -> None:
    float_power = math.log(3.7 / 1.1) / math.log(24 * 24 / 11**2)
    assert multiply("bf16", "fp32") == pytest.approx(1.1 * (8 * 24 / 11**2) ** float_power, rel=1e-12)
    integer_power = math.log(3.1 / 0.2) / math.log(1024 / 64)
    assert multiply("int16", "int4") == pytest.approx(0.2, rel=1e-12)
    assert multiply("int16", "int16") == pytest.approx(0.2 * 4**integer_power, rel=1e-12)
    assert summed("e8m13") == pytest.approx(0.4 * (22 / 16) ** math.log2(0.9 / 0.4), rel=1e-12)
    assert summed("fixed16.8") == pytest.approx(math.sqrt(0.03 * 0.1), rel=1e-12)


@pytest.mark.parametrize(
    ("fmt", "same"),
    [
        ("bf16", "e5m7"),
        ("mxfp8", "e4m3"),
        ("nvfp4", "e2m1"),
        ("mxint8", "int8"),
        ("dfp12", "int12"),
        ("power8_0.5", "int8"),
        ("nested16.8", "int8"),
    ],
)
def test_formats_that_one_multiplier_serves(fmt: str, same: str) -> None:
    for partner in ("float32", "int8"):
        assert multiply(fmt, partner) == multiply(same, partner)
        assert multiply(partner, fmt) == multiply(same, partner)


def test_beside_a_float_an_integer_is_a_significand() -> None:
    assert multiply("int8", "fp32") == multiply("e8m7", "fp32")
    assert multiply("int8", "fp16") == multiply("fp16", "int8") > multiply("int8", "int11")


@pytest.mark.parametrize("family", ["e5m{}", "int{}"])
def test_more_bits_take_more_energy(family: str) -> None:
    found = [multiply(family.format(n), family.format(n)) for n in range(2, 24)]
    assert found == sorted(set(found))
    assert all(multiply(family.format(n), "fp32") < multiply(family.format(n + 1), "fp32") for n in range(2, 23))
    sums = [summed(f"e8m{n}") for n in range(2, 24)]
    assert sums == sorted(set(sums))
    fixed = [summed(f"fixed{n}.2") for n in range(8, 40)]
    assert fixed == sorted(set(fixed))


def test_blocks_are_added_once_more_and_compensation_is_four_additions() -> None:
    assert summed(Accumulator(format="fp16", order="blocked", block=4)) == pytest.approx(0.5, rel=1e-12)
    promoted, inner = ACCUMULATORS["hopper_fp8_promoted"], ACCUMULATORS["hopper_fp8"]
    assert summed(promoted) == pytest.approx(summed(inner) + 0.9 / 128, rel=1e-12)
    assert summed(Accumulator(format="fp16", compensated=True)) == pytest.approx(1.6, rel=1e-12)
    assert summed(Accumulator(format="fp16", order="pairwise")) == summed("fp16")


def test_another_process() -> None:
    model = Energy(float32_multiply=24.0, float16_multiply=11.0, float32_add=2.0, float16_add=1.0, int8_multiply=0.1)
    assert multiply("bf16", "bf16", model) == pytest.approx(8.0, rel=1e-12)
    assert summed("e8m13", model) == pytest.approx(22 / 16, rel=1e-12)
    assert multiply("int8", "int8", model) == pytest.approx(0.1, rel=1e-12)
    for wrong in ({"int8_add": 0.0}, {"float16_multiply": -1e-12}, {"dram": -1.0}):
        with pytest.raises(PlanError, match="in joules is .*, not a finite number"):
            Energy(**wrong)


def test_fused_attention_shares_its_work_among_its_pairs() -> None:
    forward = product_of(100, *(f"attention/fprop.{name}" for name in ("query", "key", "value")))
    model, half = PICOJOULES, Precision("fp16")
    assert [model.product(forward, pair, half, half) for pair in forward.pairs] == [pytest.approx(55)] * 2
    backward = product_of(100, "attention/dgrad.grad_output")
    assert model.product(backward, (0, 0), half, half) == pytest.approx(110)


def test_energy_of_a_step_by_hand() -> None:
    mixed = 1.1 * (11 * 8 / 121) ** (math.log(3.7 / 1.1) / math.log(576 / 121))  # of fp16 and bf16
    products = 600 * 1.1 + 1200 * 0.2 + 1200 * mixed + 600 * 1.1
    sums = 600 * 0.9 + 1200 * 0.1 + 1200 * 0.9 + 600 * 0.9
    # the activation is there in fp16, for two readers, and in int8; the weight of `b` in int8 and bf16
    bits = 100 * (16 + 8) + 60 * 16 + 120 * (8 + 16) + 10 * 16 + 20 * 16
    found = cost_of(PLAN, STEP, Energy())
    assert found.value * 1e12 == pytest.approx(products + sums + 20 * bits, rel=1e-12)
    assert found.unit == "J"


# --- memory


@pytest.mark.parametrize(
    ("readers", "training", "inference"),
    [
        ("weight", 10, 10),
        ("forward", 0, 0),
        ("saved", 10, 0),
        ("gradient", 0, 0),
        ("of dgrad_a", 10, 0),
        ("of dgrad_b", 10, 0),
        ("attention", 10, 0),
        ("attention's gradient", 0, 0),
        ("weight that is also an input", 10, 10),
    ],
)
def test_what_is_kept(readers: str, training: int, inference: int) -> None:
    tensor = TensorWork(READERS[readers], 10)
    assert Memory().copy(tensor, Precision("e4m3")) == training
    assert Memory(training=False).copy(tensor, Precision("e4m3")) == inference


def test_a_weight_that_only_the_backward_reads_is_none_of_inference() -> None:
    tensor = TensorWork(slots("fc/product/dgrad.weight"), 10)
    assert (Memory().copy(tensor, Precision("bf16")), Memory(training=False).copy(tensor, Precision("bf16"))) == (20, 0)


@pytest.mark.parametrize(
    ("fmt", "of_weight", "of_activation"),
    [("float32", 0, 128), ("float64", 0, 256), ("tf32", 76, 76), ("bf16", 64, 64), ("mxfp4", 17, 17), ("e2m1", 16, 16)],
)
def test_bytes_of_a_copy(fmt: str, of_weight: float, of_activation: float) -> None:
    weight, saved = (TensorWork(READERS[name], 32) for name in ("weight", "saved"))
    assert Memory().copy(weight, Precision(fmt)) == of_weight
    assert Memory().copy(saved, Precision(fmt)) == of_activation


def test_without_a_master_float32_is_a_copy_too() -> None:
    tensor = TensorWork(READERS["weight"], 10)
    assert Memory(training=False).copy(tensor, Precision("float32")) == 40
    assert Memory().copy(tensor, Precision("float32", transform="hadamard")) == 40  # not the master's values


def test_memory_of_a_step_by_hand() -> None:
    weights = 60 * 2 + 120 * (1 + 2)
    saved = 100 * 2  # not in int8, which the forward alone reads
    constant = (60 + 120) * 4 + 60 * 8
    found = cost_of(PLAN, STEP, Memory())
    assert (found.value, found.unit) == (weights + saved + constant, "bytes")
    assert cost_of(PLAN, STEP, Memory(master=0.0, optimizer_state=1.0)).value == weights + saved + 60
    assert cost_of(PrecisionPlan("fp32"), STEP, Memory()).value == 100 * 4 + constant
    assert cost_of(PLAN, STEP, Memory(training=False)).value == 60 * 2 + 120  # not in bf16, which the backward reads


def test_the_more_bits_the_more_bytes() -> None:
    found = [cost_of(PrecisionPlan(f"e5m{n}"), STEP, Memory()).value for n in range(1, 20)]
    assert found == sorted(set(found))


# --- all models


@pytest.mark.parametrize("model", MODELS, ids=repr)
def test_no_cost_is_negative_or_infinite(model: CostModel) -> None:
    assert isinstance(model, CostModel)
    precisions = [*map(Precision, FORMATS), Precision("power8_0.5"), Precision("nested8.4"), *CANDIDATES]
    costs = [model.product(ONE, (0, 1), a, b) for a, b in itertools.product(precisions, repeat=2)]
    costs += [model.copy(TensorWork(readers, 7), own) for readers in READERS.values() for own in precisions]
    costs += [model.sums(ONE, own) for own in (*ACCUMULATORS.values(), *ACCUMULATOR_CANDIDATES)]
    assert all(math.isfinite(cost) and cost >= 0 for cost in (*costs, model.constant(STEP)))


@pytest.mark.parametrize("model", MODELS, ids=repr)
def test_the_order_of_operands_does_not_matter(model: CostModel) -> None:
    for first, second in itertools.combinations(CANDIDATES, 2):
        assert model.product(ONE, (0, 1), first, second) == model.product(ONE, (0, 1), second, first)
