"""The roofline: published speedups, kernels by hand, and which device a plan is for."""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import precc
from precc import PrecisionPlan, Roofline, Scaling
from precc.accumulation.named import ACCUMULATORS
from precc.assignment.candidates import CANDIDATES
from precc.cost.cost_model import CostModel, DeviceCost
from precc.cost.cost_of_plan import cost_of
from precc.cost.native_formats import bytes_of, holds
from precc.cost.work import ProductWork, StepWork, TensorWork
from precc.devices.at_hand import device_at_hand
from precc.devices.figures import DeviceFigures
from precc.devices.published import PUBLISHED
from precc.devices.timed_work import PairRate
from precc.errors import PlanError
from precc.formats import FORMATS, FixedPoint, FloatFormat, Format
from precc.models.mlp import MLP
from precc.precision import Precision
from precc.slots import Slot

H100, H200 = (Roofline(f"{name}-SXM-published") for name in ("H100", "H200"))
FLOAT32 = Scaling("tensor", scale_format="float32")
DELAYED = Scaling("tensor", scale_format="float32", history=16)
ROW = Scaling("row", scale_format="float32")


def slots(*names: str) -> tuple[Slot, ...]:
    return tuple(Slot.parse(f"fc/product/{name}") for name in names)


def linear(m: int, k: int, n: int) -> StepWork:
    """Forward and backward of a linear layer of m tokens, from k to n."""
    x, w, y = m * k, k * n, m * n
    return StepWork(
        (
            ProductWork(slots("fprop.input", "fprop.weight"), (x, w), m * k * n, y),
            ProductWork(slots("dgrad.grad_output", "dgrad.weight"), (y, w), m * k * n, x),
            ProductWork(slots("wgrad.grad_output", "wgrad.input"), (y, x), m * k * n, w),
        ),
        (
            TensorWork(slots("fprop.input", "wgrad.input"), x),
            TensorWork(slots("fprop.weight", "dgrad.weight"), w),
            TensorWork(slots("dgrad.grad_output", "wgrad.grad_output"), y),
        ),
    )


def fp8(scaling: Scaling) -> PrecisionPlan:
    """e4m3 with gradients in e5m2, as the usual recipe has it."""
    gradient = Precision("e5m2", scaling=scaling)
    gradients = {f"fc/product/{role}.grad_output": gradient for role in ("dgrad", "wgrad")}
    return PrecisionPlan(Precision("e4m3", scaling=scaling), gradients)


#: Rows, but the weight by tensor in dgrad, and wgrad in bfloat16.
MIXED = PrecisionPlan(
    Precision("e4m3", scaling=ROW),
    {
        "fc/product/dgrad.weight": Precision("e4m3", scaling=DELAYED),
        "fc/product/wgrad.input": "bf16",
        "fc/product/wgrad.grad_output": "bf16",
    },
)
RECIPES = {"tensor": fp8(FLOAT32), "row": fp8(ROW), "mixed": MIXED, "known": fp8(DELAYED)}

# Speedups over bfloat16 of one linear layer, forward and backward: model, tokens, in, out; then of each recipe with
# casts by themselves, and with the first read fused into the producer. They are modelled from achieved 732 and 1267
# TFLOP/s, 92% of the bandwidth, 2 microseconds a kernel, and the traffic in torchao's roofline_utils.py.
SPEEDUPS = [
    (H100, (16384, 1024, 1024), (0.89, 1.00), (0.81, 0.92), (1.01, 1.19), (1.11, 1.34)),
    (H100, (16384, 1024, 4096), (1.11, 1.24), (1.01, 1.12), (1.13, 1.27), (1.28, 1.46)),
    (H100, (16384, 2048, 2048), (1.19, 1.30), (1.10, 1.20), (1.17, 1.29), (1.35, 1.50)),
    (H100, (16384, 4096, 4096), (1.40, 1.47), (1.32, 1.39), (1.26, 1.33), (1.50, 1.60)),
    (H100, (16384, 4096, 14336), (1.49, 1.54), (1.43, 1.48), (1.30, 1.34), (1.57, 1.63)),
    (H100, (16384, 8192, 8192), (1.52, 1.57), (1.47, 1.52), (1.31, 1.35), (1.60, 1.65)),
    (H100, (4096, 2048, 2048), (1.08, 1.14), (1.02, 1.10), (1.10, 1.21), (1.30, 1.44)),
    (H100, (4096, 4096, 4096), (1.28, 1.33), (1.21, 1.27), (1.19, 1.25), (1.44, 1.53)),
    (H200, (16384, 1024, 1024), (1.01, 1.10), (0.95, 1.06), (1.08, 1.23), (1.24, 1.43)),
    (H200, (16384, 4096, 4096), (1.48, 1.54), (1.42, 1.48), (1.30, 1.35), (1.57, 1.64)),
]


def speedup(model: Roofline, plan: PrecisionPlan, size: tuple[int, int, int]) -> float:
    step = linear(*size)
    return cost_of(PrecisionPlan("bf16"), step, model).value / cost_of(plan, step, model).value


@pytest.mark.parametrize("row", SPEEDUPS, ids=lambda row: f"{row[0].device.name}-{row[1]}")
def test_published_speedups(row: tuple[Roofline, tuple[int, int, int], *tuple[tuple[float, float], ...]]) -> None:
    """Within 0.8%, of which the table's rounding is up to 0.6%; of the mixed recipe, whose kernels are guessed, 2%."""
    model, size, *expected = row
    for (name, recipe), (apart, fused) in zip(RECIPES.items(), expected, strict=True):
        near = 0.02 if name == "mixed" else 0.008
        assert speedup(model, recipe, size) == pytest.approx(apart, rel=near)
        assert speedup(Roofline(model.device, fused=True), recipe, size) == pytest.approx(fused, rel=near)


@pytest.mark.parametrize(
    ("model", "tokens", "recipe", "fused", "smallest"),
    [
        (H100, 2048, "tensor", False, 2752),
        (H100, 2048, "row", False, 3520),
        (H100, 2048, "known", True, 1024),
        (H100, 8192, "tensor", False, 1600),
        (H100, 8192, "row", False, 1984),
        (H100, 8192, "known", True, 640),
        (H100, 32768, "tensor", False, 1408),
        (H100, 32768, "row", False, 1792),
        (H100, 32768, "known", True, 576),
        (H200, 8192, "tensor", False, 1280),
        (H200, 8192, "row", False, 1408),
        (H200, 8192, "known", True, 512),
    ],
)
def test_the_smallest_layer_that_gains(model: Roofline, tokens: int, recipe: str, fused: bool, smallest: int) -> None:
    """5%, of as many inputs as outputs, in steps of 64."""
    own = Roofline(model.device, fused=fused)
    gains = [size for size in range(64, 8192, 64) if speedup(own, RECIPES[recipe], (tokens, size, size)) >= 1.05]
    assert gains[0] == smallest


# --- products

FIGURES = DeviceFigures(
    "tiny",
    "published",
    "sm_90",
    (
        PairRate("float32", "float32", 100.0),
        PairRate("bfloat16", "bfloat16", 400.0),
        PairRate("float8_e4m3fn", "float8_e4m3fn", 800.0),
        PairRate("float8_e4m3fn", "float8_e5m2", 700.0),
        PairRate("int8", "int8", 1000.0),
    ),
    bandwidth=1000.0,
    launch=0.5,
)
TINY = Roofline(FIGURES)


def product(
    first: str | Precision, second: str | Precision, model: Roofline = TINY, adds: int = 10_000, size: int = 10
) -> float:
    work = ProductWork(slots("fprop.input", "fprop.weight"), (size, 2 * size), adds, 3 * size)
    return model.product(work, (0, 1), Precision.of(first), Precision.of(second))


@pytest.mark.parametrize(
    ("first", "second", "rate"),
    [
        ("bf16", "bf16", 400),
        ("e4m3", "e4m3", 800),
        ("e4m3", "e5m2", 700),
        ("e5m2", "e4m3", 700),
        ("e5m2", "e5m2", 400),
        ("e4m3", "bf16", 400),
        ("e3m4", "e4m3", 400),
        ("e2m1", "e2m3", 800),
        ("fp16", "bf16", 100),
        ("int8", "int4", 1000),
        ("int8", "bf16", 400),
        ("mxfp8", "mxfp4", 400),
        ("power8_0.5", "bf16", 100),
        ("nested8.4", "fp32", 100),
    ],
)
def test_a_product_runs_in_what_holds_it(first: str, second: str, rate: float) -> None:
    assert product(first, second) == pytest.approx(20_000 / rate)


def test_a_product_moves_operands_and_results() -> None:
    """30 numbers read, 30 written in bfloat16, or float32; a large one has the bandwidth's time."""
    assert product("e4m3", "e4m3", adds=1, size=1000) == pytest.approx((3000 + 2 * 3000) / 1000)
    assert product("bf16", "bf16", adds=1, size=1000) == pytest.approx((6000 + 2 * 3000) / 1000)
    assert product("e4m3", "bf16", adds=1, size=1000) == pytest.approx((6000 + 2 * 3000) / 1000)
    wide = Roofline(FIGURES, tensors="float32")
    assert product("e4m3", "e5m2", wide, adds=1, size=1000) == pytest.approx((3000 + 4 * 3000) / 1000)
    assert product("e4m3", "e4m3", adds=1, size=1) == 0.5


def test_the_fastest_pair_that_holds_both_is_taken() -> None:
    slow = replace(FIGURES, rates=(PairRate("float32", "float32", 100.0), PairRate("float16", "float16", 10.0)))
    assert product("fp16", "fp16", Roofline(slow)) == product("fp32", "fp32", Roofline(slow))


def test_products_that_no_format_holds_are_named() -> None:
    with pytest.raises(PlanError, match="tiny multiplies no formats that hold float64 x bfloat16"):
        product("fp64", "bf16")
    with pytest.raises(PlanError, match="tiny multiplies no format that holds e11m51"):
        Roofline(FIGURES, tensors="float64").copy(TensorWork(slots("fprop.input"), 4), Precision("e11m51"))


def test_fused_attention_is_two_products_and_a_backward_of_one_operand() -> None:
    names = [Slot.parse(f"attention/fprop.{name}") for name in ("query", "key", "value")]
    forward = ProductWork(tuple(names), (1000, 1000, 1000), 2000, 1000)
    half = Precision("bf16")
    assert [TINY.product(forward, pair, half, half) for pair in forward.pairs] == [pytest.approx(6.0)] * 2
    backward = ProductWork((Slot.parse("attention/dgrad.grad_output"),), (1000,), 2000, 1000)
    assert TINY.product(backward, (0, 0), half, half) == pytest.approx(10.0)
    small = replace(backward, multiply_adds=1)  # by its bytes: the operand and the results, once each
    assert TINY.product(small, (0, 0), half, half) == pytest.approx((2000 + 2000) / 1000)


NATIVES = [FORMATS[name] for name in ("float8_e4m3fn", "float8_e5m2", "float16", "bfloat16", "float32", "int8")]
NARROW = [own for own in FORMATS.values() if isinstance(own, (FloatFormat, FixedPoint)) and own.bits <= 8]


@pytest.mark.parametrize("native", NATIVES, ids=lambda own: own.name)
def test_what_holds_a_format_has_its_values(native: Format) -> None:
    for own in NARROW:
        values = torch.tensor([own.decode(code) for code in range(2**own.bits)], dtype=torch.float64)
        values = values[values.isfinite()]
        kept = bool((precc.round_to(values, native) == values).all())
        if isinstance(own, FloatFormat) and isinstance(native, FloatFormat):
            assert holds(native, own) == kept, own.name
        elif isinstance(own, FixedPoint) and isinstance(native, FloatFormat):
            assert kept or not holds(native, own), own.name


def test_a_narrower_format_takes_no_longer() -> None:
    for model, (wide, narrow) in itertools.product((H100, TINY), itertools.permutations(CANDIDATES, 2)):
        if holds(wide.format, narrow.format):
            for other in CANDIDATES:
                assert product(narrow, other, model) <= product(wide, other, model)


def test_bytes_in_memory() -> None:
    known = {
        "float64": 8,
        "float32": 4,
        "tfloat32": 4,
        "bfloat16": 2,
        "float8_e5m2": 1,
        "int8": 1,
        "float4_e2m1fn": 0.5,
    }
    assert {name: bytes_of(FORMATS[name]) for name in known} == known


# --- casts


@pytest.mark.parametrize(
    ("precision", "names", "moved"),
    [
        (Precision("e4m3"), ("fprop.input",), [3]),
        (Precision("e4m3"), ("wgrad.input",), [3]),
        (Precision("e4m3"), ("fprop.input", "wgrad.input"), [4]),
        (Precision("e4m3"), ("fprop.weight", "dgrad.weight"), [4]),
        (Precision("e4m3", scaling=DELAYED), ("dgrad.grad_output", "wgrad.grad_output"), [4]),
        (Precision("e4m3", scaling=Scaling("static", value=2.0)), ("fprop.a", "dgrad_b.a"), [4]),
        (Precision("e4m3", scaling=FLOAT32), ("fprop.input",), [2, 0, 3]),
        (Precision("e4m3", scaling=FLOAT32), ("fprop.input", "wgrad.input"), [2, 0, 4]),
        (Precision("e4m3", scaling=FLOAT32), ("fprop.weight", "dgrad.weight"), [2, 0, 3, 3]),
        (Precision("e4m3", scaling=FLOAT32), ("fprop.b", "dgrad_a.b"), [2, 0, 4]),
        (Precision("e4m3", scaling="channel"), ("fprop.input",), [2, 0, 3]),
        (Precision("e4m3", scaling=ROW), ("fprop.input",), [3]),
        (Precision("e4m3", scaling=ROW), ("wgrad.input",), [2, 3]),
        (Precision("e4m3", scaling=ROW), ("fprop.input", "wgrad.input"), [3, 2, 3]),
        (Precision("e4m3", scaling=ROW), ("fprop.weight", "dgrad.weight"), [3, 4, 3]),
        (Precision("e4m3", scaling=ROW), ("fprop.b",), [2, 3]),
        (Precision("e4m3", scaling=ROW), ("dgrad_a.b",), [3]),
        (Precision("e4m3", scaling=ROW), ("dgrad_b.a",), [2, 3]),
        (Precision("e4m3", scaling=ROW), ("dgrad_b.grad_output",), [2, 3]),
        (Precision("e4m3", scaling=ROW), ("dgrad_a.grad_output",), [3]),
        (Precision("e4m3", scaling=ROW), ("wgrad.grad_output",), [2, 3]),
        (Precision("e4m3", scaling=ROW), ("dgrad.grad_output",), [3]),
        (Precision("nvfp4"), ("fprop.input",), [2, 0, 4]),
        (Precision("mxfp8"), ("fprop.input", "wgrad.input"), [6]),
        (Precision("e2m1"), ("fprop.input", "wgrad.input"), [4]),
        (Precision("e3m4"), ("fprop.input", "wgrad.input"), [4]),
        (Precision("e5m7"), ("fprop.input", "wgrad.input"), [4]),
        (Precision("e8m7"), ("fprop.input", "wgrad.input"), []),
        (Precision("bf16"), ("fprop.input",), []),
        (Precision("fp32"), ("fprop.input",), []),
        (Precision("bf16", transform="shift_and_squeeze"), ("fprop.input",), [4]),
    ],
)
def test_kernels_of_casts(precision: Precision, names: tuple[str, ...], moved: list[float]) -> None:
    """Bytes a value: read in bfloat16, written in the narrowest of bf16, e4m3, e5m2, float32 and int8 that holds it."""
    fast = Roofline(replace(FIGURES, launch=1e-9))
    assert fast.copy(TensorWork(slots(*names), 1000), precision) == pytest.approx(sum(moved), abs=1e-7)
    slow = Roofline(replace(FIGURES, launch=1e6))
    assert slow.copy(TensorWork(slots(*names), 1000), precision) == pytest.approx(len(moved) * 1e6)


def test_a_fused_cast_does_not_read_activations() -> None:
    fused = Roofline(replace(FIGURES, launch=1e-9), fused=True)
    for names, moved in (
        (("fprop.input", "wgrad.input"), 4),
        (("dgrad.grad_output",), 3),
        (("fprop.weight", "dgrad.weight"), 8),
    ):
        work = TensorWork(slots(*names), 1000)
        assert fused.copy(work, Precision("e4m3", scaling=FLOAT32)) == pytest.approx(moved, abs=1e-6)
    alone = TensorWork(slots("fprop.input"), 1000)
    assert fused.copy(alone, Precision("e4m3")) == pytest.approx(1.0)
    assert Roofline(FIGURES, fused=True).copy(alone, Precision("e4m3", scaling=FLOAT32)) == 0.5 + 0.5 + 3.0


def test_where_any_layout_will_do_there_is_one_copy() -> None:
    for target, copies in (("sm_100", 1), ("sm_89", 2), ("sm_120", 1), ("cpu-emulated", 1)):
        own = Roofline(replace(FIGURES, target=target, launch=1e-9))
        both = TensorWork(slots("fprop.input", "wgrad.input"), 1000)
        assert own.copy(both, Precision("e4m3")) == pytest.approx(2 + copies)
        assert own.copy(both, Precision("fp16")) == pytest.approx(6.0)  # in float32: no format of 16 bits holds it
        assert own.copy(both, Precision("e4m3", scaling=ROW)) == pytest.approx(8.0)  # its scales differ


def test_sums_of_the_device_and_others() -> None:
    work = linear(16, 32, 64).products[0]
    own = Roofline(FIGURES, promotion=0.25)
    seconds = 2 * work.multiply_adds / 800
    assert own.sums(work, None) == own.sums(work, ACCUMULATORS["hopper_fp8"]) == 0
    assert own.sums(work, precc.parse_accumulator("fp16")) == 0
    assert own.sums(work, ACCUMULATORS["hopper_fp8_promoted"]) == pytest.approx(seconds / 4)
    assert own.sums(work, precc.parse_accumulator("bf16")) == math.inf
    for target in ("cpu-emulated", "sm_100", "sm_120"):
        assert Roofline(replace(FIGURES, target=target)).sums(work, ACCUMULATORS["hopper_fp8"]) == math.inf


@given(st.sampled_from(CANDIDATES), st.sampled_from(CANDIDATES), st.integers(1, 2**40), st.integers(1, 2**30))
def test_no_cost_is_negative_and_operands_may_change_places(
    first: Precision, second: Precision, adds: int, size: int
) -> None:
    assert isinstance(H100, CostModel)
    assert isinstance(H100, DeviceCost)
    assert 0 < product(first, second, H100, adds, size) < math.inf
    same = ProductWork(slots("fprop.input", "fprop.weight"), (size, size), adds, size)
    assert H100.product(same, (0, 1), first, second) == H100.product(same, (0, 1), second, first)
    for names in (("fprop.input",), ("fprop.weight", "dgrad.weight")):
        for model in (H100, Roofline(H100.device, fused=True)):
            assert 0 <= model.copy(TensorWork(slots(*names), size), first) < math.inf


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Roofline("H100"), "cannot read the figures of a device 'H100'.*'H100-SXM-published', 'H200"),
        (lambda: Roofline(3), "a device is its figures, a file of them, or expected one of 'H100"),
        (lambda: Roofline(FIGURES, tensors="e4m3"), "tensors have the dtype 'e4m3': expected one of 'bfloat16'"),
        (lambda: Roofline(FIGURES, promotion=-1.0), "promotion, a share of a product's time, is -1.0"),
    ],
)
def test_rooflines_that_make_no_sense(make: Callable[[], Roofline], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        make()


def test_a_roofline_says_what_it_is() -> None:
    assert repr(H100) == "Roofline('H100-SXM-published')"
    assert repr(Roofline(replace(FIGURES, date="2026-01-02"), tensors="float32", fused=True)) == (
        "Roofline('tiny of 2026-01-02', tensors='float32', fused=True)"
    )
    assert set(PUBLISHED) == {"H100-SXM-published", "H200-SXM-published"}


# --- plans


@pytest.fixture(scope="module")
def analysis() -> precc.Analysis:
    torch.manual_seed(0)
    x = torch.randn(16, 1, 28, 28)
    net = precc.compile(MLP(), backend="reference")
    return net.analyze(x, loss=lambda output: output.square().mean(), options=precc.AnalysisOptions(sums=16))


def test_large_layers_are_worth_casting_and_small_ones_are_not(analysis: precc.Analysis) -> None:
    """With the launch of a GPU the products of a small net are all in bfloat16; without one some are in fp8."""
    policy = precc.ErrorBudget(gradient=0.2, candidates=["e4m3", "e5m2", "bf16"])
    small = policy.assign(analysis, cost=H100, target="sm_90")
    assert {own.format.name for own in small.slots.values()} == {"bfloat16"}
    assert small.cost is not None
    assert small.cost.unit == "s"
    free = Roofline(replace(H100.device, launch=1e-15, bandwidth=1e18))
    fast = policy.assign(analysis, cost=free, target="sm_90")
    assert "float8_e4m3fn" in {own.format.name for own in fast.slots.values()}
    again = precc.PrecisionPlan.from_json(fast.to_json())
    assert again.cost == fast.cost


def assign(analysis: precc.Analysis, cost: Roofline, target: str | precc.Target) -> PrecisionPlan:
    return precc.ErrorBudget(gradient=0.2).assign(analysis, cost=cost, target=target)


def test_the_device_of_the_cost_is_that_of_the_target(analysis: precc.Analysis) -> None:
    with pytest.raises(PlanError, match=r"has the times of sm_90, not of sm_80: give target='sm_90', or another cost"):
        assign(analysis, H100, "sm_80")
    with pytest.raises(PlanError, match=r"not of cpu-emulated: give target='sm_90'"):
        precc.pareto(analysis, cost=H100)
    with pytest.raises(PlanError, match=r"of sm_120, not of sm_90: give a precc.Target of its own"):
        assign(analysis, Roofline(replace(FIGURES, target="sm_120")), "sm_90")
    own = precc.Target("mine", pairs=[("bf16", "bf16")])
    assert {str(slot) for slot in assign(analysis, H100, own).slots.values()} == {"bfloat16"}


def test_figures_of_another_cpu(analysis: precc.Analysis) -> None:
    here = device_at_hand("cpu").name
    other = replace(FIGURES, name="Z80, 1 CPUs, 1 threads", kind="cpu", target="cpu-emulated")
    message = (
        rf"are of 'Z80, 1 CPUs, 1 threads', and this machine has '{here}': measure it with `precc calibrate`, or .*"
    )
    with pytest.raises(PlanError, match=message.replace("(", r"\(").replace(")", r"\)")):
        assign(analysis, Roofline(other), "cpu-emulated")
    for model in (Roofline(other, anywhere=True), Roofline(replace(other, name=here))):
        assert assign(analysis, model, "cpu-emulated").cost is not None


def test_figures_of_another_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """They matter where the machine has one of the same target; a machine without one may plan for any."""
    own = Roofline(replace(FIGURES, name="NVIDIA H100 PCIe", kind="cuda"))
    assert own.target_problem(precc.TARGETS["sm_90"]) == ""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", ["NVIDIA H200", "NVIDIA H100 PCIe"].__getitem__)
    monkeypatch.setattr(torch.cuda, "get_device_capability", [(9, 0), (8, 0)].__getitem__)
    problem = own.target_problem(precc.TARGETS["sm_90"])
    assert problem.startswith("the figures are of 'NVIDIA H100 PCIe', and this machine has 'NVIDIA H200': measure it")
    assert Roofline(own.device, anywhere=True).target_problem(precc.TARGETS["sm_90"]) == ""
    assert H100.target_problem(precc.TARGETS["sm_90"]) == ""
    monkeypatch.setattr(torch.cuda, "get_device_capability", [(8, 0), (9, 0)].__getitem__)
    assert own.target_problem(precc.TARGETS["sm_90"]) == ""


def test_sums_that_are_not_for_sale(analysis: precc.Analysis) -> None:
    here = replace(FIGURES, name=device_at_hand("cpu").name, kind="cpu", target="cpu-emulated")
    choices = precc.ErrorBudget(gradient=0.2, accumulators=[None, "e5m10"]).assign(analysis, cost=Roofline(here))
    assert set(choices.accumulators.values()) == {None}
    with pytest.raises(PlanError, match=r"no choice for .*\.accumulator has a finite cost by Roofline\('"):
        precc.ErrorBudget(gradient=0.2, accumulators=["e5m10"]).assign(analysis, cost=Roofline(here))


def test_a_plan_for_a_file(analysis: precc.Analysis, tmp_path: Path) -> None:
    H100.device.save(tmp_path / "h100.json")
    for path in (tmp_path / "h100.json", str(tmp_path / "h100.json")):
        assert Roofline(path) == H100
