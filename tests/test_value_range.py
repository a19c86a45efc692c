"""Ranges of values: counts predicted from thresholds equal those of rounding, as integers; nets; a planted defect."""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import precc
from precc.analysis.magnitude_counts import TENSOR_OPS, MagnitudeCounts, bits_of_dtype, stored
from precc.analysis.range_losses import BlockLosses, RangeCandidate, candidate_of
from precc.analysis.range_thresholds import RangeThresholds
from precc.analysis.slot_sites import sites_of
from precc.analysis.step_runs import StepRunner, Values
from precc.analysis.traced_step import TracedStep, trace_step
from precc.analysis.value_range import RangeLoss
from precc.annotations import products_of
from precc.backends.cpp.magnitudes import COMPILED
from precc.errors import UnsupportedError
from precc.formats import (
    FORMATS,
    BlockFormat,
    FixedPoint,
    FloatFormat,
    NestedInteger,
    PowerLaw,
    Scaling,
    Specials,
    parse_format,
)
from precc.models.gpt import GPT
from precc.models.lenet5 import LeNet5
from precc.passes import rounding_pipeline
from precc.passes.nonfinite import described, first_nonfinite
from precc.passes.value_range import DEFAULT_CANDIDATES, ValueRanges
from precc.precision import Precision
from precc.rounding import RoundingMode, Row, quantize
from precc.rounding.scales import divisor_of, scale_of
from precc.rounding.tensor_ops import carrier_of
from tests.exact import exact_round
from tests.test_rounding import MODES, SMALL, points

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
NEAREST32 = Scaling("tensor", scale_format="float32")
WHOLE_SCALINGS = (
    None,
    Scaling("static", value=0.37),
    Scaling("tensor"),
    Scaling("tensor", rule="ceil"),
    NEAREST32,
    Scaling("tensor", history=4),
)


# ---- what rounding itself does ----


def extended(fmt: FloatFormat | FixedPoint) -> FloatFormat | FixedPoint:
    """The same grid, going on beyond both ends."""
    if isinstance(fmt, FixedPoint):
        return replace(fmt, word=min(fmt.word + 20, 53), signed=True, symmetric=False)
    specials = fmt.specials if fmt.ties_by_code else Specials.NONE
    own = {"signed": True, "zero": True, "exponent_bits": min(fmt.exponent_bits + 1, 11)}
    bias = fmt.bias + (0 if fmt.zero else 1)
    return replace(fmt, specials=specials, overflow=None, bias=bias, **own)  # type: ignore[arg-type]


def row_of_element(fmt: Any, precision: Precision) -> Row:
    return Precision(fmt, precision.rounding).row()


def beyond(scaled: Tensor, precision: Precision) -> Tensor:
    """Whether scaled values, rounded to a format that goes on, would exceed the ends of the precision's."""
    element = precision.format.element if isinstance(precision.format, BlockFormat) else precision.format
    if isinstance(element, FloatFormat) and (element.exponent_bits > 8 or element.mantissa_bits > 20):
        return torch.zeros_like(scaled, dtype=torch.bool)
    if isinstance(element, FloatFormat) and element.scale != 1.0:
        element = replace(element, bias=math.floor(element.bias))
    if isinstance(element, PowerLaw):
        top = len(element.values) - 1
        next_value = {"toward_zero": 1.0, "stochastic": 0.0}.get(precision.rounding.mode.value, 0.5)
        return scaled.double().abs() > ((top + next_value) / top) ** (1 / element.power) * (1 - 1e-7 * bool(next_value))
    if isinstance(element, NestedInteger):
        high, low = element.stages
        first = quantize(scaled.double(), row_of_element(extended(high), precision))
        rounded = quantize(first, row_of_element(extended(low), precision))
    elif precision.is_stochastic:
        return _can_go_beyond(scaled, precision, element)
    else:
        rounded = quantize(scaled.double(), row_of_element(extended(element), precision))
    if isinstance(element, FloatFormat) and not element.zero:
        rounded = torch.where((scaled > 0) & (scaled < element.smallest_normal), element.smallest_normal, rounded)
    return (rounded > element.max) | (rounded < element.low)


def _can_go_beyond(scaled: Tensor, precision: Precision, element: FloatFormat | FixedPoint) -> Tensor:
    draw = largest_draw(precision)
    far = extended(element)
    least = element.smallest_normal if isinstance(element, FloatFormat) and not element.zero else 0.0
    rounded = [exact_round(x, far, RoundingMode.STOCHASTIC, draw) if x else 0.0 for x in scaled.flatten().tolist()]
    out = [max(y, least) if x > 0 else y for x, y in zip(scaled.flatten().tolist(), rounded, strict=True)]
    flags = [y > element.max or y < element.low for y in out]
    return torch.tensor(flags, dtype=torch.bool).reshape(scaled.shape)


def largest_draw(precision: Precision) -> int:
    bits = precision.rounding.random_bits
    return ((1 << bits) - 1) << (31 - bits)


def drawn(x: Tensor, scaled: Tensor, scale: Tensor, precision: Precision, draw: int) -> Tensor:
    """Rounded with one random number for all."""
    element = precision.format.element if isinstance(precision.format, BlockFormat) else precision.format
    assert isinstance(element, (FloatFormat, FixedPoint))
    if isinstance(element, FloatFormat):
        element = replace(element, bias=math.floor(element.bias))
        element = element.with_overflow("saturate") if precision.scaling is not None else element
    results = [exact_round(own, element, RoundingMode.STOCHASTIC, draw) for own in scaled.flatten().tolist()]
    return (torch.tensor(results, dtype=scaled.dtype).reshape(scaled.shape) * scale).to(x.dtype)


def measured(x: Tensor, precision: Precision, *, axis: int = -1, channel: int = -1) -> RangeLoss:
    """Counted on the rounded tensor."""
    row = precision.row(axis=axis, channel=channel).current
    values = x.to(carrier_of(x, row).dtype)
    scale = scale_of(values, row)
    scaled = values / divisor_of(scale)
    down = up = quantize(x, row, key=1)
    if precision.is_stochastic:
        down, up = (drawn(x, scaled, scale, precision, draw) for draw in (0, largest_draw(precision)))
    finite = x.isfinite()
    overflow = finite & (~up.isfinite() | ((scaled != 0) & beyond(scaled, precision)))
    return RangeLoss(int((finite & (x != 0) & (down == 0)).sum()), int(overflow.sum()), x.numel())


def predicted(x: Tensor, precision: Precision, *, axis: int = -1, channel: int = -1) -> RangeLoss:
    counts, candidate = MagnitudeCounts(stored(x)), candidate_of(precision)
    if candidate.by_tensor:
        return candidate.loss(counts)
    return BlockLosses(x, int((x == 0).sum()), counts.nonfinite).loss(candidate, axis=axis, channel=channel)


def same(x: Tensor, precision: Precision, **axes: int) -> None:
    assert predicted(x, precision, **axes) == measured(x, precision, **axes), (precision, x.dtype)


def neighbours(x: Tensor) -> Tensor:
    near = [torch.nextafter(x, torch.full_like(x, end)) for end in (math.inf, -math.inf)]
    return torch.cat([x, *near])


def adversarial(fmt: FloatFormat | FixedPoint, dtype: torch.dtype, scaling: Scaling | None) -> Tensor:
    """Codes, midpoints and their neighbours, at the scale that the largest of them gives; or all, with none."""
    z = points(fmt, torch.float64 if dtype is torch.float64 else torch.float32)
    z = z[z.isfinite() & (z.abs() <= 4.5 * fmt.max)] if scaling is not None else z
    if scaling is None:
        return z.to(dtype)
    largest = (1.3 * z.abs().amax()).to(dtype)
    row = Precision(fmt, "nearest_even", scaling).row().current
    scale = scale_of(largest.reshape(1).to(carrier_of(z, row).dtype), row)
    x = neighbours((z * scale).to(dtype))
    extremes = torch.tensor([torch.finfo(dtype).tiny, torch.finfo(dtype).smallest_normal / 4, 0.0, -0.0], dtype=dtype)
    return torch.cat([x[x.abs() <= largest], extremes, largest[None], -largest[None]])


# ---- single tensors ----


@pytest.mark.parametrize(
    ("mode", "scaling"),
    [(mode, own) for mode in MODES for own in (WHOLE_SCALINGS if mode == "nearest_even" else WHOLE_SCALINGS[:3])],
    ids=str,
)
def test_all_thresholds_of_small_formats(mode: str, scaling: Scaling | None) -> None:
    for index, fmt in enumerate(SMALL):
        if scaling is not None and isinstance(fmt, FloatFormat) and fmt.scale != 1.0:
            continue
        dtype = DTYPES[index % 2] if scaling is None else DTYPES[(index + len(mode)) % 4]
        x = adversarial(fmt, dtype, scaling)
        if mode == "stochastic":
            x = x[x.isfinite()][:: max(1, len(x) // 100)]
        same(x, Precision(fmt, mode, scaling))


@pytest.mark.parametrize(
    "name", [*FORMATS, "nested8.4", "nested6.5", "power4_0.5", "power3_2", "dfp8", "bfp6.16", "e8m7"]
)
@pytest.mark.parametrize("mode", ["nearest_even", "nearest_away", "toward_zero"])
def test_named_formats_on_wide_values(name: str, mode: str) -> None:
    fmt = parse_format(name)
    scalings = [None] if isinstance(fmt, BlockFormat) else [None, Scaling("tensor"), NEAREST32, Scaling("row")]
    for index, scaling in enumerate(scalings):
        x = wide(3, 70, DTYPES[(index + len(name) + len(mode)) % 4])
        same(x, Precision(fmt, mode, scaling), axis=1, channel=0)


def wide(rows: int, columns: int, dtype: torch.dtype, seed: int = 0, spread: float = 12.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    exponents = torch.randn(rows, columns, generator=generator, dtype=torch.float64) * spread
    x = torch.randn(rows, columns, generator=generator, dtype=torch.float64) * exponents.exp2()
    x = torch.where(torch.rand(rows, columns, generator=generator) < 0.1, 0.0, x)
    x[0, : min(4, columns)] = torch.tensor([1.0, -1.5, 0.25, -0.0], dtype=torch.float64)[: min(4, columns)]
    return x.to(dtype)


ALONG = (
    Scaling("row"),
    Scaling("row", scale_format="float32"),
    Scaling("channel"),
    Scaling("channel", scale_format="e5m2"),
    Scaling("block", size=16),
    Scaling("block", size=7, scale_format="e4m3", two_level=True),
    Scaling("block", size=32, rule="ceil"),
    Scaling("tile", size=(2, 5)),
    Scaling("tile", size=(3, 16), scale_format="e4m3"),
)


@pytest.mark.parametrize("scaling", ALONG, ids=str)
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_scales_along_dimensions(scaling: Scaling, axis: int) -> None:
    for index, name in enumerate(("e2m1", "e4m3", "fixed8.4", "int8", "ue5m3", "e5m2", "e3m4", "fixed6.2")):
        dtype = DTYPES[(index + axis) % 4]
        precision = Precision(name, "nearest_even", scaling)
        x = wide(6, 37, dtype, seed=axis)
        same(x, precision, axis=axis, channel=0)
        same(wide(6, 32, dtype, spread=60.0).mT, precision, axis=axis, channel=1)
        x[2, 3] = math.nan
        x[4, 30] = math.inf
        same(x, precision, axis=axis, channel=1)
        same(x.abs()[:, :, None].expand(-1, -1, 2), precision, axis=axis, channel=1)


SHAPES: dict[str, Tensor] = {
    "empty": torch.empty(0, 4),
    "one": torch.tensor([[3.0]]),
    "zeros": torch.tensor([[0.0, -0.0, 0.0]]),
    "equal": torch.full((2, 40), 0.3),
    "infinite": torch.tensor([[math.inf, 1.0, 0.0, -2.0]]),
    "all_nan": torch.tensor([[math.nan, -math.inf]]),
    "huge": torch.tensor([[3.4e38, -3.4028234e38, 1.0, 1e-45]]),
    "subnormal": torch.tensor([[1e-45, -3e-45, 1e-40, 5e-39, 1.2e-38]]),
    "nan_with_all_bits": torch.tensor([[-1, 2**31 - 1, 1]], dtype=torch.int32).view(torch.float32),
}


@pytest.mark.parametrize("case", SHAPES)
def test_odd_tensors(case: str) -> None:
    formats = ("e4m3", "e2m1", "e5m2", "fixed4.2", "e8m0", "binary8p3u", "bfloat16", "float16")
    for name, scaling, dtype in itertools.product(formats, (None, "tensor", NEAREST32, "row", ALONG[5]), DTYPES):
        x = SHAPES[case].to(dtype)
        same(x, Precision(name, scaling=scaling))
        same(x.flatten(), Precision(name, scaling=scaling))


@pytest.mark.parametrize("bits", [1, 3, 31])
def test_stochastic_rounding_counts_what_can_be_lost(bits: int) -> None:
    for name, scaling in itertools.product(("e4m3", "e2m1", "fixed6.2", "binary8p3u"), (None, "tensor", NEAREST32)):
        same(wide(2, 60, torch.float32), Precision(name, f"stochastic:{bits}" if bits < 31 else "stochastic", scaling))


def test_a_stochastic_underflow_happens() -> None:
    x, precision = torch.full((4000,), 2.0**-10 * 1.5), Precision("e4m3", "stochastic")
    zeros = int((quantize(x, precision.row(), key=5) == 0).sum())
    assert 0 < zeros < len(x) == predicted(x, precision).underflow


elements = st.floats(width=32, allow_nan=True, allow_infinity=True) | st.floats(-500, 500, width=32)
formats = st.sampled_from(
    [*DEFAULT_CANDIDATES, Precision("int8", scaling="row"), Precision("e4m3", "toward_zero", NEAREST32)]
)


@settings(max_examples=150, deadline=None)
@given(st.lists(elements, min_size=1, max_size=40), formats, st.sampled_from(DTYPES), st.integers(-140, 100))
def test_random_tensors(numbers: list[float], precision: Precision, dtype: torch.dtype, shift: int) -> None:
    x = (torch.tensor(numbers, dtype=torch.float64) * 2.0**shift).to(dtype)
    same(x, precision)


@pytest.mark.parametrize("dtype", DTYPES)
def test_counts_of_magnitudes(dtype: torch.dtype) -> None:
    tiny = torch.finfo(dtype).smallest_normal
    near = [tiny / 2, tiny, tiny / 8 * 3, 1.0, 2.0, 1.9, -4.0, 0.0, math.inf, math.nan]
    x = torch.cat([wide(1, 3000, dtype)[0], torch.tensor(near, dtype=torch.float64).to(dtype)])
    counts = MagnitudeCounts(x)
    finite = x.double()[x.isfinite()]
    magnitudes = finite[finite != 0].abs()
    exponents = sorted(math.frexp(own)[1] - 1 for own in magnitudes.tolist())
    wanted = tuple((exponent, len(list(group))) for exponent, group in itertools.groupby(exponents))
    assert counts.exponents() == wanted
    assert (counts.zeros, counts.nonfinite) == (int((finite == 0).sum()), int((~x.isfinite()).sum()))
    assert counts.bits.value(counts.smallest_nonzero) == float(magnitudes.amin())
    assert counts.bits.value(counts.largest) == float(magnitudes.amax())
    for own in magnitudes.unique()[::40]:
        bits = int(counts.bits.of(own.to(dtype)[None]))
        assert [counts.at_most(bits + by) for by in (-1, 0)] == [
            int((magnitudes < own).sum()),
            int((magnitudes <= own).sum()),
        ]


def test_thresholds_are_found_where_a_guess_is_far_off(monkeypatch: pytest.MonkeyPatch) -> None:
    scales = torch.tensor([2.0**-140, 3e-39, 0.1, 7.0, 0.0, math.nan, 2.0**120])
    right = RangeThresholds.of(Precision("e4m3", scaling=NEAREST32), torch.float32).at(scales)
    monkeypatch.setattr(RangeThresholds, "_guessed", lambda self, scales, bits: [torch.ones(len(scales), 2).long()] * 2)
    found = RangeThresholds.of(Precision("e4m3", scaling=NEAREST32), torch.float32).at(scales)
    assert torch.equal(found.lost, right.lost)
    assert torch.equal(found.kept, right.kept)


def test_a_transform_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedError, match="hadamard"):
        ValueRanges([Precision("e4m3", transform="hadamard")]).watcher(step_of("lenet5"))


def test_a_wrong_threshold_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """One bit less, as if a tie did not go to even."""
    x, precision = torch.tensor([2.0**-10, 1.0]), Precision("e4m3")
    same(x, precision)
    original = RangeThresholds.at

    def off_by_one(self: RangeThresholds, scales: Tensor) -> Any:
        found = original(self, scales)
        return replace(found, lost=found.lost - 1)

    monkeypatch.setattr(RangeThresholds, "at", off_by_one)
    wrong = RangeCandidate(precision).loss(MagnitudeCounts(x))
    assert wrong != measured(x, precision)


# ---- steps of nets ----


def step_of(name: str, net: nn.Module | None = None) -> TracedStep:
    torch.manual_seed(0)
    loss: Callable[[Any], Tensor]
    if name == "gpt":
        net, x, y = GPT(width=64, layers=2), torch.randint(128, (2, 32)), torch.randint(128, (2, 32))

        def loss(output: Any) -> Tensor:
            return nn.functional.cross_entropy(output.flatten(0, 1), y.flatten())
    else:
        net, x, y = net or LeNet5(), torch.randn(8, 1, 28, 28), torch.randint(10, (8,))

        def loss(output: Any) -> Tensor:
            return nn.functional.cross_entropy(output, y)

    compiled = precc.compile(net, backend="reference")
    return trace_step(compiled, (x,), {}, loss, title=name, pipeline=rounding_pipeline(), fused_attention=False)


@pytest.mark.parametrize("name", ["lenet5", "gpt"])
def test_predictions_are_what_rounding_does_in_a_step(name: str) -> None:
    step = step_of(name)
    ranges = ValueRanges().run(step)
    sites = {site.node: site for site in sites_of(step)}
    sums = {node: product.accumulators for node, product in products_of(step.graph.graph)}
    assert set(ranges) == {site.name for site in sites.values()} | {slot.name for own in sums.values() for slot in own}
    seen = set()

    def watch(node: Any, value: Any, values: Values) -> None:
        if node in sites:
            site = sites[node]
            seen.add(site.name)
            for precision in DEFAULT_CANDIDATES:
                operand = site.operand
                wanted = measured(value, precision, axis=operand.contracted, channel=operand.channel)
                assert ranges[site.name].losses[precision] == wanted, (site.name, precision)
        for slot in sums.get(node, ()):
            seen.add(slot.name)
            (result,) = [own for own in (value if isinstance(value, tuple) else (value,)) if own is not None]
            for precision, loss in ranges[slot.name].losses.items():
                assert loss == measured(result, precision), (slot.name, precision)

    with torch.no_grad():
        StepRunner(step).run(lambda node, values: values[node.args[0]], watch=watch)  # type: ignore[index]
    assert seen == set(ranges)


def test_a_range_says_what_a_slot_reads() -> None:
    step = step_of("lenet5")
    state = torch.get_rng_state()
    own = ValueRanges([]).run(step)["conv1/product/fprop.input"]
    assert torch.equal(torch.get_rng_state(), state)
    x = next(
        value for value in step.inputs.values() if isinstance(value, Tensor) and value.dim() == 4 and len(value) == 8
    )
    assert (own.elements, own.zeros, own.nonfinite) == (x.numel(), 0, 0)
    assert (own.amax, own.amin) == (float(x.abs().amax()), float(x.abs().amin()))
    assert sum(count for _, count in own.histogram) == x.numel()


def test_values_that_need_gradients_are_looked_at_too() -> None:
    step = step_of("lenet5")
    watcher = ValueRanges().watcher(step)
    inputs = {
        name: value.clone().requires_grad_() if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in step.inputs.items()
    }
    run = StepRunner(step).run(
        lambda node, values: values[node.args[0]],  # type: ignore[index]
        inputs=inputs,
        watch=watcher.watch,
        gradients=False,
    )
    assert run.loss.requires_grad
    known = ValueRanges().run(step)
    assert {name: own for name, own in watcher.result().items() if name in known}
    assert all(known[name] == own for name, own in watcher.result().items())


@pytest.mark.parametrize("scaling", ["tensor", Scaling("tensor", scale_format="fp32")], ids=["by exponent", "exact"])
def test_a_candidate_does_not_grow_with_the_tensors_it_saw(scaling: str | Scaling) -> None:
    candidate = RangeCandidate(Precision("e4m3", scaling=scaling))
    for index in range(100):
        candidate.loss(MagnitudeCounts(torch.tensor([1.0, 1 + index / 100])))
    assert len(candidate._ends) <= 1


class Overflowing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(784, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x.flatten(1))
        masked = y.masked_fill(y > 1e6, -math.inf).softmax(-1)
        grown = (masked * 1000.0).exp()  # the planted line
        return grown - grown.amax(-1, keepdim=True)


def test_the_first_nonfinite_value_is_named() -> None:
    first = first_nonfinite(step_of("overflowing", Overflowing()))
    assert first is not None
    words = described(first)
    assert "aten.exp" in words
    assert "planted line" in words


class OverflowingInHalf(nn.Module):
    """Behind a mask of infinities, values that are finite but whose sum is not."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(784, 784).half()

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x.half().flatten(1))
        finite = y.masked_fill(y > 0, -math.inf).clamp(min=1000.0)
        return finite * finite  # the planted line


def test_a_sum_of_finite_values_that_overflows_hides_nothing() -> None:
    first = first_nonfinite(step_of("overflowing in half", OverflowingInHalf()))
    assert first is not None
    assert "planted line" in described(first)


def test_a_step_with_a_mask_of_infinities_is_finite() -> None:
    assert first_nonfinite(step_of("gpt")) is None


AWKWARD = (0.0, -0.0, 1e-45, -1e-40, 6e-8, 1.0, -1.0, 1.5, 65504.0, 3.4e38, math.inf, -math.inf, math.nan)


def assert_alike(x: Tensor) -> None:
    """The compiled kernels find what tensor operations find, at thresholds of all kinds too."""
    one, other = TENSOR_OPS.magnitudes(x), COMPILED.magnitudes(x)
    assert (one.bins == other.bins).all()
    assert (one.nonfinite, one.smallest, one.largest) == (other.nonfinite, other.smallest, other.largest)
    infinity = bits_of_dtype(x.dtype).infinity
    for end in {1, max(one.smallest - 1, 1), max(one.smallest, 1), one.largest // 2 + 1, infinity - 1}:
        for negative in (None, False, True):
            assert TENSOR_OPS.at_most(x, end, negative) == COMPILED.at_most(x, end, negative), (end, negative)


@pytest.mark.parametrize("dtype", DTYPES)
def test_compiled_counts_are_those_of_tensor_operations(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    for count in (0, 1, 3, 1023, 1025, (1 << 20) + 5):
        x = torch.randn(count, generator=generator, dtype=torch.float64) * 10 ** torch.randint(
            -45, 38, (count,), generator=generator
        ).double().clamp(-320, 300)
        assert_alike(x.to(dtype))
    awkward = torch.tensor(AWKWARD, dtype=torch.float64).to(dtype)
    assert_alike(awkward)
    assert_alike(torch.zeros(5, dtype=dtype))
    assert_alike(awkward[-1:].repeat(7))
    assert_alike(torch.randn(64, 2, generator=generator).to(dtype)[:, 0])


@given(st.lists(st.floats(width=32) | st.sampled_from(AWKWARD), max_size=40))
def test_compiled_counts_of_any_numbers(numbers: list[float]) -> None:
    for dtype in DTYPES:
        assert_alike(torch.tensor(numbers, dtype=torch.float64).to(dtype))


def test_counting_by_kernels_gives_the_same_ranges() -> None:
    step = step_of("lenet5")
    ranges = [ValueRanges(DEFAULT_CANDIDATES, own).run(step) for own in (TENSOR_OPS, COMPILED)]
    assert ranges[0].keys() == ranges[1].keys()
    for name, own in ranges[0].items():
        other = ranges[1][name]
        assert dict(own.losses) == dict(other.losses)
        assert (own.histogram, own.amax, own.amin, own.zeros) == (
            other.histogram,
            other.amax,
            other.amin,
            other.zeros,
        )
