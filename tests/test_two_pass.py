"""Products in two passes, bit for bit: a scalar loop of fractions; which components are computed again, and how."""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

import precc
from precc import (
    Accumulator,
    Precision,
    ProductArithmetic,
    TwoPass,
    convolution_two_pass,
    matmul,
    matmul_two_pass,
    round_to,
)
from precc.accumulation import two_pass_rule
from precc.accumulation.kernels import Kernels
from precc.accumulation.magnitudes import absolute_product, norm_product
from precc.accumulation.tensor_ops import accumulate_tensor_ops
from precc.backends.cpp import compiled_or_tensor_ops
from precc.by_hand import selected_products, two_pass
from precc.by_hand.numerics import accumulated
from precc.condition_numbers import ACTIVATIONS
from precc.errors import FormatError
from precc.float64_functions import root
from precc.rounding import RoundingMode, slot_number
from tests.exact import exact_hash, exact_round
from tests.exact_sums import ScalarSum, same_bits

INF, NAN = math.inf, math.nan
SEED = 20250315

#: low, high, tau
PAIRS: dict[str, tuple[Any, Any, float]] = {
    "e4m3 in e4m3, float32": ("e4m3", "float32", 2.0),
    "e4m3 in e5m10, float32": (ProductArithmetic("e4m3", "e5m10"), "float32", 2.5),
    "e4m3 in e5m10, bf16 in float32": (ProductArithmetic("e4m3", "e5m10"), ProductArithmetic("bf16", "float32"), 3.0),
    "e5m2 in a product of its own, blocked": (
        ProductArithmetic("e5m2", Accumulator(format="e6m9", product="e5m2", order="blocked", block=3)),
        ProductArithmetic("e5m10", Accumulator(format="e5m10", order="pairwise")),
        5.0,
    ),
    "stochastic": (
        ProductArithmetic(Precision("e4m3", "stochastic"), Accumulator(format="e5m10", rounding="stochastic")),
        ProductArithmetic(Precision("bf16", "stochastic"), Accumulator(format="e8m12", rounding="stochastic")),
        4.0,
    ),
    "stochastic sums in high": (
        "e4m3",
        ProductArithmetic("bf16", Accumulator(format="e6m9", rounding="stochastic:7")),
        4.0,
    ),
}


def is_stochastic(*pair: Any) -> bool:
    return any(ProductArithmetic.of(choice).is_stochastic for choice in pair)


@dataclass
class Scalar:
    """One product, a number at a time: the operands' values, and for each output where its terms are."""

    a: list[float]
    b: list[float]
    terms: list[list[tuple[int | None, int | None]]]  # indices into a and b; None at the padding

    def rounded(self, values: list[float], arithmetic: ProductArithmetic, name: str) -> list[float]:
        mode, slot = arithmetic.operands.rounding.mode, slot_number(f"two_pass/{name}")
        random = [exact_hash(SEED, slot, i) >> 1 for i in range(len(values))]
        fmt: Any = arithmetic.operands.format
        return [exact_round(x, fmt, mode, number) for x, number in zip(values, random, strict=True)]

    def factors(self, arithmetic: ProductArithmetic, name: str) -> list[tuple[list[float], list[float]]]:
        """Of each output, the rounded factors of its terms."""
        a, b = self.rounded(self.a, arithmetic, f"{name}.a"), self.rounded(self.b, arithmetic, f"{name}.b")
        return [
            ([0.0 if i is None else a[i] for i, _ in terms], [0.0 if j is None else b[j] for _, j in terms])
            for terms in self.terms
        ]

    def two_pass(self, low: Any, high: Any, tau: float, activation: str, numerator: str) -> tuple[list[Any], ...]:
        low, high = ProductArithmetic.of(low), ProductArithmetic.of(high)
        streams = [(SEED, slot_number(f"two_pass/{name}.sum")) for name in ("low", "high")]
        results, again, conditions = [], [], []
        pairs = zip(self.factors(low, "low"), self.factors(high, "high"), strict=True)
        for output, (coarse, fine) in enumerate(pairs):
            v = as_float32(ScalarSum(low.accumulator, *coarse, output, streams[0]).result())
            condition = scalar_condition(v, *coarse, low.accumulator, activation, numerator)
            again.append(condition > tau)
            conditions.append(condition)
            results.append(ScalarSum(high.accumulator, *fine, output, streams[1]).result() if condition > tau else v)
        return results, again, conditions


def as_float32(x: float) -> float:
    return float(torch.tensor(x, dtype=torch.float64).float())


def scalar_condition(
    v: float, a: list[float], b: list[float], accumulator: Accumulator, activation: str, numerator: str
) -> float:
    if not accumulator.format.low < v < accumulator.format.max:
        return INF
    if numerator == "absolute":
        magnitude = 0.0
        for x, y in zip(a, b, strict=True):
            magnitude += abs(x * y)
    else:
        squares = [0.0, 0.0]
        for x, y in zip(a, b, strict=True):
            squares = [squares[0] + x * x, squares[1] + y * y]
        roots = root(torch.tensor(squares, dtype=torch.float64)).tolist()
        magnitude = roots[0] * roots[1]
    kappa = 1.0 if magnitude == 0 and v == 0 else magnitude / abs(v) if v else INF
    product = float(ACTIVATIONS[activation](torch.tensor(v, dtype=torch.float64))) * kappa
    return INF if math.isnan(product) else product


def equal(found: TwoPass, wanted: tuple[list[Any], ...]) -> bool:
    results, again, conditions = wanted
    assert found.condition is not None
    same = same_bits(found.result.flatten(), torch.tensor(results, dtype=torch.float64).to(found.result.dtype))
    same &= found.recomputed.flatten().tolist() == again
    return same and same_bits(found.condition.flatten(), torch.tensor(conditions, dtype=torch.float64))


def matrices(rows: int = 4, depth: int = 9, columns: int = 5, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    return torch.randn(rows, depth) * scale, torch.randn(depth, columns)


def scalar_matmul(a: Tensor, b: Tensor) -> Scalar:
    rows, depth, columns = *a.shape, b.shape[1]
    terms: list[list[tuple[int | None, int | None]]] = [
        [(i * depth + k, k * columns + j) for k in range(depth)]
        for i, j in itertools.product(range(rows), range(columns))
    ]
    return Scalar(a.double().flatten().tolist(), b.double().flatten().tolist(), terms)


def arguments(pair: str) -> dict[str, Any]:
    low, high, tau = PAIRS[pair]
    return {"low": low, "high": high, "tau": tau} | ({"seed": SEED} if is_stochastic(low, high) else {})


@pytest.mark.parametrize("numerator", ["absolute", "norms"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("pair", PAIRS)
def test_matmul_equals_a_scalar_loop(pair: str, activation: str, numerator: str) -> None:
    a, b = matrices()
    found = matmul_two_pass(a, b, **arguments(pair), activation=activation, numerator=numerator)
    assert 0 < found.share < 1 or activation != "identity"
    assert equal(found, scalar_matmul(a, b).two_pass(*PAIRS[pair], activation, numerator))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-3, 60.0, 500.0])
def test_small_and_overflowing_values_equal_a_scalar_loop(scale: float, dtype: torch.dtype) -> None:
    a, b = (x.to(dtype) for x in matrices(scale=scale))
    a[1], a[2, 3], b[:, 1], b[2, 3] = 0.0, -0.0, 0.0, INF
    for pair, numerator in itertools.product(
        ("e4m3 in e4m3, float32", "e4m3 in e5m10, float32"), ("absolute", "norms")
    ):
        found = matmul_two_pass(a, b, **arguments(pair), numerator=numerator)
        assert equal(found, scalar_matmul(a, b).two_pass(*PAIRS[pair], "identity", numerator))


def test_planted_defects_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scalar loop differs from a product with each of these mistakes."""
    a, b = matrices()
    wanted = {pair: scalar_matmul(a, b).two_pass(*PAIRS[pair], "tanh", "absolute") for pair in PAIRS}

    def right(pair: str) -> bool:
        return equal(matmul_two_pass(a, b, **arguments(pair), activation="tanh"), wanted[pair])

    name = "stochastic"
    assert right(name)

    def later(a: Tensor, b: Tensor, mask: Tensor, own: Accumulator, key: int, *, slot: int, first: int) -> Tensor:
        return accumulated(a, b, own, key, slot=slot, first=first + 1)

    defects: dict[str, tuple[Any, Any]] = {
        "magnitude": (two_pass_rule, lambda numerator, a, b, accumulate: norm_product(a, b)),
        "slot_of": (two_pass_rule, lambda slot: slot_number("two_pass/low.a")),
        "_KERNELS": (two_pass, Kernels(compiled_or_tensor_ops, accumulated, later)),
        "activation_condition": (two_pass_rule, lambda v, activation: torch.ones_like(v, dtype=torch.float64)),
    }
    for target, (module, defect) in defects.items():
        with monkeypatch.context() as patch:
            patch.setattr(module, target, defect)
            assert not right(name), target
    changed = arguments(name) | {"high": ProductArithmetic(Precision("bf16", "stochastic"), "e8m12")}
    assert not equal(matmul_two_pass(a, b, **changed, activation="tanh"), wanted[name])
    assert right(name)


def scalar_convolution(x: Tensor, weight: Tensor, stride: int, padding: int, dilation: int, groups: int) -> Scalar:
    (batch, channels, height, width), (outputs, depth, *kernel) = x.shape, weight.shape
    size = [
        (n + 2 * padding - dilation * (k - 1) - 1) // stride + 1 for n, k in zip((height, width), kernel, strict=True)
    ]
    terms = []
    for n, o, p, q in itertools.product(range(batch), range(outputs), *map(range, size)):
        own: list[tuple[int | None, int | None]] = []
        for c, r, s in itertools.product(range(depth), *map(range, kernel)):
            row, column = p * stride - padding + r * dilation, q * stride - padding + s * dilation
            inside = 0 <= row < height and 0 <= column < width
            channel = o // (outputs // groups) * depth + c
            place = ((n * channels + channel) * height + row) * width + column if inside else None
            own.append((place, ((o * depth + c) * kernel[0] + r) * kernel[1] + s))
        terms.append(own)
    return Scalar(x.double().flatten().tolist(), weight.double().flatten().tolist(), terms)


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize(
    "options",
    [
        {"stride": 1, "padding": 0, "dilation": 1, "groups": 1},
        {"stride": 2, "padding": 1, "dilation": 1, "groups": 2},
        pytest.param({"stride": 1, "padding": 2, "dilation": 2, "groups": 1}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_convolution_equals_a_scalar_loop(pair: str, options: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("precc.accumulation.convolution._MOST_PATCHES", 500)  # several parts
    x, weight = torch.randn(2, 4, 5, 4), torch.randn(4, 4 // options["groups"], 3, 2)
    for activation, numerator in (("relu", "absolute"), ("tanh", "norms")):
        found = convolution_two_pass(
            x, weight, **arguments(pair), activation=activation, numerator=numerator, **options
        )
        wanted = scalar_convolution(x, weight, **options).two_pass(*PAIRS[pair], activation, numerator)
        assert equal(found, wanted)
        assert found.result.shape == F.conv2d(x, weight, **options).shape
        assert 0 < found.share < 1


def test_convolutions_of_one_and_three_dimensions() -> None:
    for dims, conv in ((1, F.conv1d), (3, F.conv3d)):
        x = torch.randint(-3, 4, (2, 3, *(6, 5, 4)[:dims])).float()
        weight = torch.randint(-3, 4, (5, 3, *(2, 3, 1)[:dims])).float()
        stride, padding = [1, 2, 1][:dims], [2, 0, 1][:dims]
        expected = conv(x, weight, stride=stride, padding=padding)
        for tau in (1.0, INF):
            found = convolution_two_pass(x, weight, "float32", "float32", tau, stride=stride, padding=padding)
            assert torch.equal(found.result, expected)  # small integers: every sum is exact


@pytest.mark.parametrize("pair", PAIRS)
def test_the_mask_of_the_rule_gives_its_result(pair: str) -> None:
    a, b = matrices(30, 40, 50)
    options = arguments(pair)
    found = matmul_two_pass(a, b, **options)
    assert found.condition is not None
    assert torch.equal(found.recomputed, found.condition > options["tau"])
    chosen = matmul_two_pass(a, b, **(options | {"tau": None}), select=found.recomputed)
    assert same_bits(chosen.result, found.result)
    assert torch.equal(chosen.recomputed, found.recomputed)
    assert chosen.condition is None
    assert chosen.share == found.share


@pytest.mark.parametrize("pair", PAIRS)
def test_components_have_the_bits_of_the_low_or_of_the_high_product(pair: str) -> None:
    a, b = torch.randn(3, 20, 33), torch.randn(3, 33, 70)
    options = arguments(pair) | {"tau": None}
    everywhere = torch.ones(3, 20, 70, dtype=torch.bool)
    low, high = (matmul_two_pass(a, b, **options, select=select).result for select in (~everywhere, everywhere))
    assert not torch.equal(low, high)
    for share in (0.002, 0.05, 0.5):
        select = torch.rand(3, 20, 70) < share
        mixed = matmul_two_pass(a, b, **options, select=select)
        assert same_bits(mixed.result, torch.where(select, high, low))
        assert mixed.share == pytest.approx(float(select.double().mean()))


def test_the_parts_are_roundings_and_products_as_by_hand() -> None:
    """Blocks run along the contracted dimension; a channel is a row of a, a column of b, a filter, a channel of x."""
    a, b = torch.randn(2, 6, 64), torch.randn(2, 64, 7)
    none = torch.zeros(2, 6, 7, dtype=torch.bool)
    x, weight = torch.randn(2, 64, 5, 5), torch.randn(6, 64, 3, 3)
    nowhere = torch.zeros(2, 6, 3, 3, dtype=torch.bool)
    cases = [("mxfp4", None, 1, 1), ("mxfp8", None, 1, 1), ("int8", "row", 1, 1), ("e4m3", "channel", 1, 0)]
    for name, scaling, axis_x, axis_w in cases:
        arithmetic = ProductArithmetic(Precision(name, scaling=scaling), "e5m10")
        across = [2, 1] if scaling != "channel" else [1, 2]
        left, right = (round_to(t, name, scaling=scaling, axis=axis) for t, axis in zip((a, b), across, strict=True))
        found = matmul_two_pass(a, b, arithmetic, "float32", select=none)
        assert same_bits(found.result, matmul(left, right, "e5m10"))
        assert same_bits(matmul_two_pass(a, b, "float32", arithmetic, select=~none).result, found.result)
        convolved = convolution_two_pass(x, weight, arithmetic, "float32", select=nowhere)
        columns = F.unfold(round_to(x, name, scaling=scaling, axis=axis_x), 3)
        filters = round_to(weight, name, scaling=scaling, axis=axis_w).flatten(1).expand(2, -1, -1)
        assert same_bits(convolved.result.flatten(2), matmul(filters, columns, "e5m10"))


@st.composite
def selections(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, Accumulator]:
    items, groups = draw(st.sampled_from([(1, 1), (4, 1), (4, 2), (3, 3), (0, 1)]))
    rows, depth, columns = (draw(st.integers(0, most)) for most in (6, 5, 40))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    a, b = (
        torch.randn(groups, rows, depth, generator=generator),
        torch.randn(items, depth, columns, generator=generator),
    )
    density = draw(st.sampled_from([0.0, 0.02, 0.1, 0.5, 1.0]))
    select = torch.rand(items, rows, columns, generator=generator) < density
    options = draw(st.sampled_from([{}, {"rounding": "stochastic"}, {"order": "pairwise"}, {"product": "e5m10"}]))
    return a, b, select, Accumulator(format=draw(st.sampled_from(["e5m10", "float32"])), **options)


@settings(max_examples=60, deadline=None)
@given(selections(), st.sampled_from([0.0, 0.25, 1e9]), st.sampled_from([1, 2**20]))
def test_selected_products_have_the_bits_of_whole_ones(
    case: tuple[Tensor, Tensor, Tensor, Accumulator], sparse: float, gathered: int
) -> None:
    a, b, select, accumulator = case
    whole = accumulate_tensor_ops(a.repeat(b.shape[0] // a.shape[0], 1, 1), b, accumulator, SEED, slot=5, first=1000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selected_products, "_SPARSE", sparse)
        patch.setattr(selected_products, "_MOST_GATHERED", gathered)
        patch.setattr(selected_products, "_is_fast", lambda *arguments: False)
        found = selected_products.selected_product(a, b, select, accumulator, SEED, slot=5, first=1000)
    assert found.shape == whole.shape
    assert same_bits(found[select], whole[select])


def test_few_components_are_computed_without_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    computed = []
    accumulated = selected_products.accumulated

    def counting(a: Tensor, b: Tensor, *rest: Any, **options: Any) -> Tensor:
        result = accumulated(a, b, *rest, **options)
        computed.append(result.numel())
        return result

    monkeypatch.setattr(selected_products, "accumulated", counting)
    a, b = matrices(64, 30, 64)
    slow = ProductArithmetic("float32", Accumulator(format="float32", order="pairwise"))  # no fast path
    select = torch.rand(64, 64) < 0.01
    matmul_two_pass(a, b, "e4m3", slow, select=select)
    assert 0 < sum(computed) <= 16 * int(select.any(1).sum())
    computed.clear()
    matmul_two_pass(a, b, "e4m3", "float32", select=select)
    assert sum(computed) == 64 * 64
    computed.clear()
    matmul_two_pass(a, b, "e4m3", "float32", select=torch.zeros(64, 64, dtype=torch.bool))
    assert not computed


def test_share_falls_with_tau_and_accuracy_with_it() -> None:
    a, b = matrices(40, 60, 40)
    exact = a.double() @ b.double()
    low = ProductArithmetic("e4m3", "e5m10")
    for activation, numerator in itertools.product(("identity", "relu", "gelu"), ("absolute", "norms")):
        found = [
            matmul_two_pass(a, b, low, "float32", tau, activation=activation, numerator=numerator)
            for tau in (0, 1, 3, 10, 100, 1e4, INF)
        ]
        masks = [entry.recomputed for entry in found]
        assert all(bool((less <= more).all()) for more, less in itertools.pairwise(masks))
        assert found[-1].share == 0
        assert found[0].share == (1 if activation != "relu" else pytest.approx(0.5, abs=0.1))
        errors = [float((entry.result - exact).norm()) for entry in found]
        assert all(before <= after for before, after in itertools.pairwise(errors))


def test_norms_recompute_at_least_as_much() -> None:
    a, b = matrices(40, 60, 40)
    for tau in (2, 5, 20):
        first, second = (
            matmul_two_pass(a, b, "e4m3", "float32", tau, numerator=name).recomputed for name in ("absolute", "norms")
        )
        assert bool((first <= second).all())


def test_what_has_no_estimate_is_computed_again() -> None:
    a = torch.tensor([[1.0, -1.0], [0.0, 0.0], [400.0, 400.0], [-400.0, -400.0], [NAN, 1.0], [1.0, 1.0]])
    b = torch.ones(2, 1)
    found = matmul_two_pass(a, b, "e4m3", "float32", 1e30)
    assert found.condition is not None
    assert found.condition.flatten().tolist() == [INF, 1.0, INF, INF, INF, 1.0]
    assert found.result.flatten().tolist()[:4] == [0.0, 0.0, 800.0, -800.0]
    with_inf = matmul_two_pass(a * 200, b, ProductArithmetic("float32", "e5m10"), "float32", 1e30)
    assert with_inf.recomputed.flatten().tolist() == [True, False, True, True, True, False]
    relu = matmul_two_pass(a - 3, b, "e4m3", "float32", 0, activation="relu")
    assert relu.recomputed.flatten().tolist() == [False, False, True, True, True, False]


def test_magnitudes_that_do_not_fit_float64_equal_a_loop() -> None:
    """Sums of numbers far apart, where the order of the terms matters, and of infinite ones."""
    a, b = (torch.randn(2, 5, 6, dtype=torch.float64) * 10.0 ** torch.randint(-9, 9, (2, 5, 6)) for _ in range(2))
    b = b.transpose(1, 2)
    for change in (1.0, 1e200, INF):
        a[1, 2, 3] *= change
        wanted = torch.zeros(2, 5, 5, dtype=torch.float64)
        for k in range(6):
            wanted = wanted + a[:, :, k, None].abs() * b[:, None, k].abs()
        assert torch.equal(absolute_product(a, b, accumulated), wanted)


@pytest.mark.parametrize(("rows", "depth", "columns"), [(0, 3, 2), (2, 3, 0), (2, 0, 3), (0, 0, 0), (1, 1, 1)])
def test_empty_products(rows: int, depth: int, columns: int) -> None:
    for numerator in ("absolute", "norms"):
        found = matmul_two_pass(
            torch.ones(rows, depth), torch.ones(depth, columns), "e4m3", "float32", 1, numerator=numerator
        )
        assert found.result.shape == found.recomputed.shape == (rows, columns)
        assert found.share == 0
        assert torch.equal(found.result, torch.full((rows, columns), float(depth)))
    empty = convolution_two_pass(torch.zeros(0, 2, 4, 4), torch.ones(3, 2, 3, 3), "e4m3", "float32", 1)
    assert empty.result.shape == (0, 3, 2, 2)


def test_strides_threads_and_tensor_operations_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = matrices(20, 30, 40)
    options = arguments("stochastic") | {"activation": "gelu"}
    found = matmul_two_pass(a, b, **options)
    turned = matmul_two_pass(a.t().contiguous().t(), b.t().contiguous().t(), **options)
    negated = matmul_two_pass(torch._neg_view(-a), b, **options)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = matmul_two_pass(a, b, **options)
    finally:
        torch.set_num_threads(threads)
    monkeypatch.setattr("precc.by_hand.numerics.is_plain", lambda x: False)
    by_tensor_ops = matmul_two_pass(a, b, **options)
    for other in (turned, negated, alone, by_tensor_ops):
        assert same_bits(other.result, found.result)
        assert torch.equal(other.recomputed, found.recomputed)


def test_without_a_seed_torch_s_generator_decides() -> None:
    a, b = matrices(20, 30, 40)
    low, high, tau = PAIRS["stochastic"]
    assert low.operands.rounding.mode is RoundingMode.STOCHASTIC
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(matmul_two_pass(a, b, low, high, tau).result)
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


A, X, W = torch.ones(2, 2), torch.ones(1, 4, 5, 5), torch.ones(4, 4, 3, 3)


def bad(*arguments: Any, **options: Any) -> Callable[[], TwoPass]:
    return lambda: matmul_two_pass(*arguments, **options)


def bad_convolution(*arguments: Any, **options: Any) -> Callable[[], TwoPass]:
    return lambda: convolution_two_pass(*arguments, "e4m3", "float32", 1, **options)


STOCHASTIC = ProductArithmetic("e4m3", Accumulator(format="e5m10", rounding="stochastic"))
BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "neither": (bad(A, A, STOCHASTIC, "float32"), "tau, or select"),
    "both": (bad(A, A, STOCHASTIC, "float32", 1, select=A > 0), "tau, or select"),
    "negative tau": (bad(A, A, STOCHASTIC, "float32", -1.0), "tau is a number"),
    "NaN tau": (bad(A, A, STOCHASTIC, "float32", NAN), "tau is a number"),
    "tau of text": (bad(A, A, STOCHASTIC, "float32", "1"), "tau is a number"),
    "select's shape": (bad(A, A, STOCHASTIC, "float32", select=torch.ones(2, 3) > 0), "select has the shape"),
    "select's dtype": (bad(A, A, STOCHASTIC, "float32", select=A), "select is a bool"),
    "select's device": (bad(A, A, STOCHASTIC, "float32", select=(A > 0).to("meta")), "select is a bool"),
    "select of text": (bad(A, A, STOCHASTIC, "float32", select="all"), "select is a bool"),
    "numerator": (bad(A, A, STOCHASTIC, "float32", 1, numerator="max"), "expected one of 'absolute', 'norms'"),
    "activation": (bad(A, A, STOCHASTIC, "float32", 1, activation="softmax"), "expected one of 'identity'"),
    "low": (bad(A, A, 3, "float32", 1), "format"),
    "blocks in sums": (bad(A, A, "mxfp8", "float32", 1), "a running sum is a float"),
    "seed": (bad(A, A, "e4m3", "float32", 1, seed=1), "neither low nor high"),
    "seed's type": (bad(A, A, STOCHASTIC, "float32", 1, seed=1.5), "a seed is an integer"),
    "gradients": (bad(A.clone().requires_grad_(), A, STOCHASTIC, "float32", 1), "no derivative"),
    "list": (bad([1], A, STOCHASTIC, "float32", 1), "takes dense tensors"),
    "sparse": (bad(A.to_sparse(), A, STOCHASTIC, "float32", 1), "takes dense tensors"),
    "half": (bad(A.half(), A.half(), STOCHASTIC, "float32", 1), "float32"),
    "two dtypes": (bad(A, A.double(), STOCHASTIC, "float32", 1), "float32"),
    "shapes": (bad(A, torch.ones(3, 2), STOCHASTIC, "float32", 1), "a product takes"),
    "devices": (bad(A, A.to("meta"), STOCHASTIC, "float32", 1), "one device"),
    "channels": (bad_convolution(X, W[:, :2]), "does not fit"),
    "groups": (bad_convolution(X, W, groups=0), "groups is"),
    "groups of filters": (bad_convolution(X, W[:3, :2], groups=2), "does not fit"),
    "dimensions": (bad_convolution(X[0], W), "as many dimensions"),
    "matrices": (bad_convolution(A, A), "as many dimensions"),
    "stride": (bad_convolution(X, W, stride=0), "stride is"),
    "padding": (bad_convolution(X, W, padding=-1), "padding is"),
    "text": (bad_convolution(X, W, padding="same"), "padding is"),
    "dilations": (bad_convolution(X, W, dilation=(1, 1, 1)), "dilation is"),
    "kernel": (bad_convolution(X[..., :2], W), "no spatial extent"),
}


@pytest.fixture
def generator_state() -> Iterator[None]:
    state = torch.get_rng_state()
    yield
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("case", BAD)
@pytest.mark.usefixtures("generator_state")
def test_bad_arguments_are_errors_of_ours(case: str) -> None:
    call, message = BAD[case]
    with pytest.raises(FormatError, match=message):
        call()


def test_an_accumulator_gets_the_operands_that_it_takes() -> None:
    a, b = torch.randn(5, 70), torch.randn(70, 3)
    low = ProductArithmetic("e4m3", "hopper_fp8")
    found = matmul_two_pass(a, b, low, "fp32", 1e9)
    assert same_bits(found.result, precc.matmul(round_to(a, "e4m3"), round_to(b, "e4m3"), "hopper_fp8"))
    with pytest.raises(FormatError, match="multiplies plain float8_e4m3fn values, not bfloat16"):
        ProductArithmetic("bf16", "hopper_fp8")
    with pytest.raises(FormatError, match="multiplies plain float8_e5m2 values, not float8_e4m3fn"):
        ProductArithmetic("e4m3", "hopper_fp8_e5m2")  # whose values have infinities
    with pytest.raises(FormatError, match="no transforms"):
        ProductArithmetic(precc.Precision("e4m3", transform="hadamard"), "fp32")


def test_norms_of_tiny_values_are_not_lost() -> None:
    a = torch.tensor([[1e-165, -1e-165 * (1 - 2**-12)]], dtype=torch.float64)
    b = torch.full((2, 1), 1e150, dtype=torch.float64)
    low = ProductArithmetic("fp64", "e11m20")
    found = {name: matmul_two_pass(a, b, low, "fp64", 10, numerator=name) for name in ("absolute", "norms")}
    assert found["norms"].condition is not None
    assert found["absolute"].condition is not None
    assert found["norms"].condition.item() >= found["absolute"].condition.item() * (1 - 1e-12) > 8000


def test_a_function_may_change_its_argument() -> None:
    a, b = torch.randn(4, 5, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    found = matmul_two_pass(a, b, "e5m10", "fp64", 10**400, activation=lambda v: v.abs_())
    assert same_bits(found.result, matmul_two_pass(a, b, "e5m10", "fp64", math.inf).result)


def test_an_accumulator_alone_is_no_arithmetic() -> None:
    with pytest.raises(FormatError, match=r"is an accumulator: write ProductArithmetic\(operands, 'hopper_fp8'\)"):
        matmul_two_pass(torch.ones(2, 2), torch.ones(2, 2), "hopper_fp8", "fp32", 1.0)
