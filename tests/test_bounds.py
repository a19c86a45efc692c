"""Bounds of the forward: trials of every rule, planted wrong rules, nets, and what is refused."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import mpmath
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from precc.analysis.curves import EXP, GELU, GELU_TANH, LOG, RSQRT, SIGMOID, SILU, TANH, Curve, _Range
from precc.analysis.intervals import Interval, add, bilinear, divide, multiply, point, square
from precc.analysis.traced_step import TracedStep, trace_step
from precc.errors import AnalysisError
from precc.models import lenet5, mlp
from precc.passes import rounding_pipeline
from precc.passes.bound_tightness import in_float64, sampled_inputs, tightness
from precc.passes.bounds import Bounds, SlotError, bounds_of, output_node, slot_nodes
from precc.passes.interval_graph import RULES
from precc.passes.interval_rules import Rule, curve
from precc.round_op import ROUND
from tests.interval_trials import Call, box, points, slope_violations, value_violations

_aten = torch.ops.aten
Generator = torch.Generator
Case = Callable[[Generator, int], tuple[tuple[Any, ...], dict[str, Any]]]

#: So many calls of each op, each with so many points: 10,000 pairs of neighbours.
CALLS, POINTS = 20, 501


def size(generator: Generator, low: int = 1, high: int = 5) -> int:
    return int(torch.randint(low, high + 1, (), generator=generator))


def shape(generator: Generator, dims: int = 2) -> tuple[int, ...]:
    return tuple(size(generator) for _ in range(dims))


def one(*others: Any, dims: int = 2, spread: int = 30, positive: bool = False, at: int = 0, **named: Any) -> Case:
    """One interval of random shape, then the same other arguments; its binades around 2**(at ± spread)."""

    def case(generator: Generator, index: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        exponent = size(generator, -spread, spread) + at
        only = positive and index % 4 != 0
        return (box(generator, shape(generator, dims), exponent, positive=only), *others), named

    return case


def fixed(dims: tuple[int, ...], *others: Any, spread: int = 30, at: int = 0, **named: Any) -> Case:
    def case(generator: Generator, index: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (box(generator, dims, size(generator, -spread, spread) + at), *others), named

    return case


def two(spread: int = 20, positive: bool = False, **named: Any) -> Case:
    """Two intervals of shapes that broadcast; now and then one interval twice, or a tensor."""

    def case(generator: Generator, index: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        rows, columns, exponent = size(generator), size(generator), size(generator, -spread, spread)
        x = box(generator, (rows, columns), exponent)
        others = ((rows, columns), (columns,), (rows, 1), ())
        y = box(generator, others[index % 4], exponent, positive=positive and index % 5 != 0)
        return (x, y), named

    return case


def sizes(*dims: int) -> tuple[int, ...]:
    return dims


def products(kind: str) -> Case:
    def case(generator: Generator, index: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        m, k, n, batch = (size(generator, 1, 6) for _ in range(4))
        exponents = [size(generator, -20, 20) for _ in range(2)]
        before = (batch,) if "bmm" in kind else ()
        x, y = box(generator, (*before, m, k), exponents[0]), box(generator, (*before, k, n), exponents[1])
        if "add" not in kind:
            return (x, y), {}
        bias = box(generator, (n,) if index % 2 else (*before, m, n), sum(exponents))
        return (bias, x, y), ({"beta": 0.5, "alpha": -2} if index % 3 == 0 else {})

    return case


def convolutions(generator: Generator, index: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    transposed, groups, dims = index % 4 == 3, 1 + index % 2, 1 + index % 2
    exponents = [size(generator, -20, 20) for _ in range(2)]
    x = box(generator, (size(generator, 1, 2), 2 * groups, *([6] * dims)), exponents[0])
    weight = box(generator, (2 * groups, 2, *([3] * dims)), exponents[1])
    bias = box(generator, (2 * groups,), sum(exponents)) if index % 3 else None
    stride, padding, dilation = size(generator, 1, 2), size(generator, 0, 2), size(generator, 1, 2)
    options = ([stride] * dims, [padding] * dims, [dilation] * dims, transposed, [0] * dims, groups)
    return (x, weight, bias, *options), {}


def losses(generator: Generator, index: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    x = box(generator, (4, 5), size(generator, -30, 30))
    target = torch.randint(0, 5, (4,), generator=generator)
    weight = point(torch.tensor([1.0, 2.0, 0.5, 4.0, 1.0])) if index % 3 == 2 else None
    ignored = int(target[0]) if index % 2 and bool((target != target[0]).any()) else -100
    return (x, target, weight, 1 + index % 2, ignored), {}


def normalizations(kind: str) -> Case:
    def case(generator: Generator, index: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        x = box(generator, (3, 4, 2), size(generator, -6, 6))
        affine, eps = index % 3 != 0, 1e-5 if index % 2 else 0.5
        channels = (4, 2) if kind == "layer" else (4,)
        weight, bias = (box(generator, channels) if affine else None for _ in range(2))
        if kind == "layer":
            return (x, [4, 2], weight, bias, eps), {}
        if kind == "group":
            return (x, weight, bias, 3, 4, 2, 2, eps), {}
        if kind == "batch":
            return (x, weight, bias, point(torch.zeros(4)), point(torch.ones(4)), True, 0.1, eps), {}
        return (x, weight, bias, box(generator, (4,)), box(generator, (4,), positive=True), 0.1, eps), {}

    return case


def pools(generator: Generator, index: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    x = box(generator, (2, 2, 6, 6) if index % 2 else (2, 6, 6), size(generator, -30, 30))
    options: tuple[tuple[Any, ...], ...] = (([2, 2],), ([3, 3], [1, 2], [1, 1]), ([2, 2], [2, 2], [0, 0], [2, 1]))
    return (x, *options[index % 3]), {}


def choices(generator: Generator, index: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    (x, y), _ = two()(generator, index)
    return (torch.rand(x.shape, generator=generator) < 0.5, x, y), {}


def parts(*others: Any, same: bool) -> Case:
    def case(generator: Generator, index: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        dim = index % 3 - 1
        shapes = [(3, 3) if same else ((size(generator), 3) if dim == 0 else (3, size(generator))) for _ in range(3)]
        return ([box(generator, own, size(generator, -30, 30)) for own in shapes], dim), {}

    return case


CASES: dict[Any, Case] = {
    _aten.abs.default: one(),
    _aten.add.Scalar: one(3.5, spread=3),
    _aten.add.Tensor: two(alpha=-0.5),
    _aten.clamp.default: one(-1.5, 2.0, spread=4),
    _aten.clamp_min.default: one(0.5, spread=4),
    _aten.clamp_max.default: one(0.5, spread=4),
    _aten.div.Scalar: one(3.0),
    _aten.div.Tensor: two(positive=True),
    _aten.exp.default: one(spread=8, at=-4),
    _aten.gelu.default: lambda generator, index: one(spread=8, at=-4, **({"approximate": "tanh"} if index % 2 else {}))(
        generator, index
    ),
    _aten.hardtanh.default: one(spread=4),
    _aten.leaky_relu.default: lambda generator, index: one(*([], [-0.5], [0.3])[index % 3])(generator, index),
    _aten.log.default: one(positive=True),
    _aten.masked_fill.Scalar: fixed((3, 4), torch.arange(4) % 2 == 0, 2.0),
    _aten.maximum.default: two(),
    _aten.minimum.default: two(),
    _aten.mul.Scalar: one(-1.25),
    _aten.mul.Tensor: two(),
    _aten.neg.default: one(),
    _aten.pow.Tensor_Scalar: lambda generator, index: one(
        (2, 3, 0.5, -2, 1, 4, -0.7, 0)[index % 8], positive=index % 8 in (2, 3, 6, 7)
    )(generator, index + 1),
    _aten.reciprocal.default: one(positive=True),
    _aten.relu.default: one(),
    _aten.rsqrt.default: one(positive=True),
    _aten.rsub.Scalar: one(2.0, 4, spread=3),
    _aten.sigmoid.default: one(spread=10, at=-4),
    _aten.silu.default: one(spread=10, at=-4),
    _aten.sqrt.default: one(positive=True),
    _aten.sub.Scalar: one(1.5, spread=3),
    _aten.sub.Tensor: two(),
    _aten.tanh.default: one(spread=10, at=-4),
    _aten.where.self: choices,
    ROUND: one(None, 0),
    _aten._to_copy.default: one(dtype=torch.float16),
    _aten.cat.default: parts(same=False),
    _aten.embedding.default: fixed((5, 3), torch.tensor([[0, 4, 4], [2, 0, 0]]), 0),
    _aten.stack.default: parts(same=True),
    _aten._unsafe_view.default: fixed((4, 6), [2, 2, 6]),
    _aten.alias.default: one(),
    _aten.clone.default: one(),
    _aten.constant_pad_nd.default: one([1, 2, 0, 1], 0.5),
    _aten.detach.default: one(),
    _aten.expand.default: fixed((1, 3), [4, 2, 3]),
    _aten.flip.default: one([0, 1]),
    _aten.permute.default: one([2, 0, 1], dims=3),
    _aten.repeat.default: one([2, 3]),
    _aten.reshape.default: fixed((4, 6), [-1, 3]),
    _aten.select.int: fixed((3, 4), 1, 2),
    _aten.slice.Tensor: fixed((4, 7), 1, 1, 9223372036854775807, 2),
    _aten.split.Tensor: fixed((2, 7), 3, 1),
    _aten.split_with_sizes.default: fixed((6, 2), [1, 2, 3]),
    _aten.squeeze.default: fixed((3, 1, 2)),
    _aten.squeeze.dim: fixed((3, 1, 2), 1),
    _aten.squeeze.dims: fixed((1, 1, 2), [0, 1]),
    _aten.t.default: one(),
    _aten.transpose.int: one(0, -1, dims=3),
    _aten.tril.default: one(),
    _aten.unbind.int: one(1),
    _aten.unsqueeze.default: one(1),
    _aten.view.default: fixed((2, 6), [3, 4]),
    _aten.addmm.default: products("addmm"),
    _aten.baddbmm.default: products("baddbmm"),
    _aten.bmm.default: products("bmm"),
    _aten.convolution.default: convolutions,
    _aten.mm.default: products("mm"),
    _aten._adaptive_avg_pool2d.default: fixed((2, 5, 7), [2, 3]),
    _aten._log_softmax.default: one(-1, False, spread=8, at=-3),
    _aten._safe_softmax.default: one(-1, spread=8, at=-3),
    _aten._softmax.default: one(0, False, spread=8, at=-3),
    _aten.amax.default: one([-1], dims=3),
    _aten.avg_pool2d.default: fixed((2, 6, 6), [3, 2], [1, 2], [1, 1]),
    _aten.logsumexp.default: one([1], True, spread=8, at=-3),
    _aten.max_pool2d_with_indices.default: pools,
    _aten.mean.default: one(),
    _aten.mean.dim: one([0], True, dims=3),
    _aten.mse_loss.default: lambda generator, index: (
        (box(generator, (3, 4), index - 10), box(generator, (3, 4), index - 10), index % 3),
        {},
    ),
    _aten.nll_loss_forward.default: losses,
    _aten.sum.default: one(dims=3),
    _aten.sum.dim_IntList: one([0, 2], False, dims=3),
    _aten._native_batch_norm_legit_functional.default: normalizations("batch"),
    _aten._native_batch_norm_legit_no_training.default: normalizations("statistics"),
    _aten.native_group_norm.default: normalizations("group"),
    _aten.native_layer_norm.default: normalizations("layer"),
}

#: Ops whose results at the points are rounded in float64; those of all others are exact.
ROUNDED = {
    getattr(_aten, name)
    for name in (
        *("_adaptive_avg_pool2d", "_log_softmax", "_native_batch_norm_legit_functional", "_safe_softmax", "_softmax"),
        *("_native_batch_norm_legit_no_training", "avg_pool2d", "div", "exp", "gelu", "leaky_relu", "log", "logsumexp"),
        *("mean", "mse_loss", "native_group_norm", "native_layer_norm", "nll_loss_forward", "pow", "reciprocal"),
        *("rsqrt", "sigmoid", "silu", "sqrt", "tanh"),
    )
}

#: Ops of whose results only the first has bounds that are used.
FIRST = {
    *(_aten.max_pool2d_with_indices.default, _aten.nll_loss_forward.default, _aten.native_layer_norm.default),
    *(_aten.native_group_norm.default, _aten._native_batch_norm_legit_functional.default),
    _aten._native_batch_norm_legit_no_training.default,
}

#: What an op computes in exact arithmetic, where it does not say it itself.
MEANINGS: dict[Any, Callable[..., Any]] = {
    ROUND: lambda x, plan, row: x,
    _aten._to_copy.default: lambda x, dtype: x,
}


def sampled(generator: Generator, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    samples: dict[int, Any] = {}
    for position, argument in enumerate(args):
        if isinstance(argument, list) and isinstance(argument[0], Interval):
            samples[position] = [points(generator, part, POINTS) for part in argument]
        elif isinstance(argument, Interval) and argument.low is not argument.high:
            samples[position] = points(generator, argument, POINTS)
    return Call(args, kwargs, samples)


def trials(op: Any, rule: Rule, calls: int = CALLS) -> tuple[int, int]:
    """Violations by values, and by differences."""
    generator = Generator().manual_seed(sum(map(ord, str(op))))
    meaning, exact = MEANINGS.get(op, op), op.overloadpacket not in ROUNDED
    found = [0, 0]
    for index in range(calls):
        call = sampled(generator, *CASES[op](generator, index))
        several = rule.value(*call.args, **call.kwargs)
        outputs = 1 if op in FIRST or not isinstance(several, tuple) else len(several)
        found[0] += value_violations(meaning, rule, call, outputs, exact=exact)
        found[1] += slope_violations(meaning, rule, call, outputs, generator, exact=exact)
    return found[0], found[1]


def test_every_rule_has_trials() -> None:
    assert set(CASES) == set(RULES)


@pytest.mark.parametrize("op", RULES, ids=str)
def test_values_and_differences_stay_in_bounds(op: Any) -> None:
    assert trials(op, RULES[op]) == (0, 0)


def shrunk(x: Interval, factor: float) -> Interval:
    middle = x.low / 2 + x.high / 2
    return Interval(middle + (x.low - middle) * factor, middle + (x.high - middle) * factor)


def with_defect(rule: Rule, of_values: float, of_rows: float) -> Rule:
    """A rule whose intervals have so much of their radius, and whose rows are too small."""

    def value(*args: Any, **kwargs: Any) -> Any:
        found = rule.value(*args, **kwargs)
        if isinstance(found, tuple):
            return tuple(shrunk(part, of_values) for part in found)
        return shrunk(found, of_values)

    def slopes(grad: Any, *args: Any, **kwargs: Any) -> Any:
        found = rule.slopes(grad, *args, **kwargs)
        return [(argument, rows.map(lambda end: end * of_rows)) for argument, rows in found]

    return Rule(value, slopes, rule.norms)


@pytest.mark.parametrize("op", RULES, ids=str)
def test_trials_find_planted_defects(op: Any) -> None:
    values, _ = trials(op, with_defect(RULES[op], 0.25, 1.0), 6)
    _, differences = trials(op, with_defect(RULES[op], 1.0, 0.25), 6)
    assert values > 0
    assert differences > 0


def test_trials_find_wrong_formulas() -> None:
    flat = Curve(TANH.values, _Range(TANH.derivative.at, TANH.derivative.size))  # without the turn at 0
    assert trials(_aten.tanh.default, curve(flat))[1] > 0
    unturned = Curve(_Range(GELU.values.at, GELU.values.size), GELU.derivative)  # without its least value
    assert trials(_aten.gelu.default, curve(unturned))[0] > 0
    crossed = Rule(lambda x, y: multiply(x, y), lambda grad, x, y: [(x, multiply(grad, x)), (y, multiply(grad, y))])
    found = trials_of_equal_shapes(crossed)
    assert found[0] == 0
    assert found[1] > 0
    relu = RULES[_aten.relu.default]
    at_middle = Rule(
        relu.value, lambda grad, x: [(x, multiply(grad, point((x.low + x.high > 0).double())))], relu.norms
    )
    assert trials(_aten.relu.default, at_middle)[1] > 0
    too_small = Rule(relu.value, relu.slopes, lambda x: [(x, 0.5)])
    assert trials(_aten.relu.default, too_small)[1] > 0


def trials_of_equal_shapes(rule: Rule) -> tuple[int, int]:
    generator = Generator().manual_seed(0)
    call = sampled(generator, (box(generator, (3, 4)), box(generator, (3, 4))), {})
    op = _aten.mul.Tensor
    values = value_violations(op, rule, call, 1, exact=True)
    return values, slope_violations(op, rule, call, 1, generator, exact=True)


def test_sums_of_products_contain_the_exact_ones() -> None:
    """Of floats with all their bits, against whole numbers of any length."""
    generator = Generator().manual_seed(1)
    scale = 2.0 ** torch.randint(-60, 60, (8, 20, 1), generator=generator).double()
    x = torch.randn(8, 20, 50, generator=generator, dtype=torch.float64) * scale
    y = torch.randn(8, 50, 20, generator=generator, dtype=torch.float64)
    y[:, 25:] = -y[:, :25] * (1 + 2.0**-30)  # which cancels
    found = bilinear(torch.matmul, point(x), point(y), 50)
    for b, i, j in torch.cartesian_prod(torch.arange(8), torch.arange(20), torch.arange(20))[::3].tolist():
        exact = sum(Fraction(p) * Fraction(q) for p, q in zip(x[b, i].tolist(), y[b, :, j].tolist(), strict=True))
        assert Fraction(float(found.low[b, i, j])) <= exact <= Fraction(float(found.high[b, i, j]))


@pytest.mark.parametrize(
    ("operation", "exact"),
    [
        (add, lambda p, q: p + q),
        (multiply, lambda p, q: p * q),
        (divide, lambda p, q: p / q),
        (lambda x, y: square(x), lambda p, q: p * p),
    ],
)
def test_single_operations_contain_the_exact_ones(operation: Any, exact: Any) -> None:
    generator = Generator().manual_seed(2)
    x, y = torch.randn(2, 2500, generator=generator, dtype=torch.float64)
    x = x * 2.0 ** torch.randint(-500, 400, x.shape, generator=generator).double()
    y = y * 2.0 ** torch.randint(-500, 400, y.shape, generator=generator).double()
    found = operation(point(x), point(y))
    for p, q, low, high in zip(x.tolist(), y.tolist(), found.low.tolist(), found.high.tolist(), strict=True):
        value = exact(Fraction(p), Fraction(q))
        assert low == -math.inf or Fraction(low) <= value
        assert high == math.inf or value <= Fraction(high)


def test_functions_contain_the_exact_ones() -> None:
    """Single points, against 60 digits; the margins are those that the functions of torch are trusted with."""
    mp = mpmath.mp.clone()
    mp.dps = 60
    k = mp.sqrt(2 / mp.pi)
    meanings: dict[Any, tuple[Callable[[Any], Any], float]] = {
        "exp": (mp.exp, 600.0),
        "log": (mp.log, 1e300),
        "tanh": (mp.tanh, 20.0),
        "sigmoid": (lambda x: 1 / (1 + mp.exp(-x)), 60.0),
        "silu": (lambda x: x / (1 + mp.exp(-x)), 60.0),
        "rsqrt": (lambda x: 1 / mp.sqrt(x), 1e300),
        "gelu": (lambda x: x * mp.erfc(-x / mp.sqrt(2)) / 2, 30.0),
        "gelu_tanh": (lambda x: x / 2 * (1 + mp.tanh(k * (x + mp.mpf(0.044715) * x**3))), 20.0),
    }
    curves = {"exp": EXP, "log": LOG, "tanh": TANH, "sigmoid": SIGMOID, "silu": SILU, "rsqrt": RSQRT}
    curves |= {"gelu": GELU, "gelu_tanh": GELU_TANH}
    generator = Generator().manual_seed(3)
    for name, (meaning, most) in meanings.items():
        x = 10 ** (torch.rand(60, generator=generator, dtype=torch.float64) * math.log10(most))
        x = torch.cat([x, x / most]) if name in ("log", "rsqrt") else torch.cat([x, -x, 1 / x, -1 / x])
        value, slope = curves[name].value(point(x)), curves[name].slope(point(x))
        for at, *ends in zip(x.tolist(), value.low, value.high, slope.low, slope.high, strict=True):
            low, high, least, greatest = (mp.mpf(float(end)) for end in ends)
            assert low <= meaning(mp.mpf(at)) <= high, (name, at)
            slope_at = mp.diff(lambda t, at=at, of=meaning: of(mp.mpf(at) * (1 + t)), 0) / mp.mpf(at)
            assert least <= slope_at <= greatest, (name, at)


class Mixed(nn.Module):
    """Most kinds of layers, with buffers, an embedding and attention."""

    def __init__(self) -> None:
        super().__init__()
        self.names = nn.Embedding(7, 8)
        self.first = nn.Linear(8, 8)
        self.second = nn.Linear(8, 8, bias=False)
        self.layer = nn.LayerNorm(8)
        self.channels = nn.BatchNorm1d(5)
        self.conv = nn.Conv1d(5, 4, 3, padding=1)
        self.last = nn.Linear(8, 3)

    def forward(self, indices: Tensor, x: Tensor) -> Tensor:
        hidden = self.names(indices) * 0.5 + x
        mixed = F.scaled_dot_product_attention(self.first(hidden), self.second(hidden), hidden, is_causal=True)
        mixed = F.gelu(self.layer(mixed)) + F.silu(hidden) - torch.tanh(mixed) * torch.sigmoid(hidden)
        mixed = F.leaky_relu(self.conv(self.channels(mixed)))
        mixed = torch.cat([mixed[:, :2], mixed[:, 2:].amax(1, keepdim=True)], 1)
        result: Tensor = self.last(mixed / (1 + mixed.square()).sqrt()).mean(1)
        return result


def cross_entropy(output: Tensor) -> Tensor:
    return F.cross_entropy(output, torch.arange(len(output)) % output.shape[1])


def traced(net: nn.Module, *args: Any, loss: Callable[[Tensor], Tensor] = cross_entropy) -> TracedStep:
    return trace_step(net, args, {}, loss, title="a net", pipeline=rounding_pipeline(), fused_attention=False)


def nets() -> Iterator[tuple[str, TracedStep]]:
    torch.manual_seed(0)
    yield "MLP", traced(mlp.MLP(), *mlp.example_inputs(2))
    yield "LeNet5", traced(lenet5.LeNet5(), *lenet5.example_inputs(2))
    for name, net in (("Mixed", Mixed()), ("Mixed, eval", Mixed().eval())):
        yield name, traced(net, torch.tensor([[0, 3, 3, 6, 2]]).expand(2, -1), torch.randn(2, 5, 8))


@pytest.fixture(scope="module")
def steps() -> dict[str, TracedStep]:
    return dict(nets())


def everywhere(step: TracedStep, error: SlotError, output: str | None = None) -> dict[str, SlotError]:
    return {name: error for name, _ in slot_nodes(step, output_node(step, output))}


NETS = ("MLP", "LeNet5", "Mixed", "Mixed, eval")


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("error", [SlotError(), SlotError(absolute=1e-4), SlotError(relative=2.0**-8)], ids=str)
def test_perturbed_runs_stay_in_bounds(steps: dict[str, TracedStep], name: str, error: SlotError) -> None:
    step = steps[name]
    bounds = bounds_of(step, radius=1e-3, errors=everywhere(step, error))
    assert bounds.unknown == {}
    assert {slot for slot, bound in bounds.slots.items() if math.isfinite(bound.lipschitz)} == set(bounds.slots)
    generator, places = Generator().manual_seed(0), slot_nodes(step, step.loss)
    for _ in range(20):
        inputs = sampled_inputs(bounds, step, generator)
        plain = in_float64(step, inputs, {}, step.loss)
        sizes: dict[str, float] = {}
        changes = {place: noise(slot, error, sizes, generator) for slot, place in places}
        values = in_float64(step, inputs, changes, step.loss)
        outside = [n.name for n, x in values.items() if n.name in bounds.intervals and not inside(bounds, n.name, x)]
        assert outside == []
        change = abs(float(values[step.loss] - plain[step.loss]))
        assert change <= bounds.total(sizes) + 1e-12


def inside(bounds: Bounds, name: str, x: Tensor) -> bool:
    interval = bounds.intervals[name]
    margin = 2.0**-44 * x.abs().nan_to_num(0, 0, 0)  # of the run in float64
    return bool(((interval.low - margin <= x) & (x <= interval.high + margin)).all())


def noise(slot: str, error: SlotError, sizes: dict[str, float], generator: Generator) -> Callable[[Tensor], Tensor]:
    """Adds errors that are allowed, most of them the largest, and notes the largest size."""

    def changed(x: Tensor) -> Tensor:
        share = torch.rand(x.shape, generator=generator, dtype=torch.float64).mul(4).sub(2).clamp(-1, 1)
        own = share * (error.absolute + error.relative * x.abs())
        sizes[slot] = float(own.abs().max())
        return x + own

    return changed


@pytest.mark.parametrize("name", ["MLP", "LeNet5"])
@pytest.mark.parametrize("output", [None, "fc3/product"])
def test_tightness(steps: dict[str, TracedStep], name: str, output: str | None) -> None:
    step = steps[name]
    exact = bounds_of(step, output=output)
    boxed = bounds_of(step, radius=1e-3, errors=everywhere(step, SlotError(relative=2.0**-9), output), output=output)
    for bounds, limit in ((exact, 1 + 1e-5), (boxed, 4.0)):
        rows = tightness(step, bounds, samples=4, output=output)
        assert {row.slot for row in rows} == set(bounds.slots)
        for row in rows:
            print(f"{row.slot:<34} {row.sampled:12.5g} {row.by_intervals:12.5g} {row.by_norms:12.5g}")
            known = bounds.slots[row.slot]
            assert row.sampled <= known.lipschitz * (1 + 1e-10)
            assert known.lipschitz == min(row.by_intervals, row.by_norms)
            if bounds is exact:
                assert row.by_intervals <= row.sampled * limit
            else:
                assert row.by_intervals <= row.by_norms * 6


def test_bounds_of_a_linear_net_are_what_they_should_be() -> None:
    net = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[2.0, -3.0]]))
    step = traced(net, torch.tensor([[1.0, 1.0]]), loss=lambda y: y.sum())
    low, high = torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 2.0]])
    image = next(name for name in step.inputs if name not in step.parameters)
    errors = {"product/fprop.input": SlotError(absolute=0.5), "product/fprop.accumulator": SlotError(absolute=1.0)}
    bounds = bounds_of(step, box={image: (low, high)}, errors=errors)
    assert {name: round(bound.lipschitz, 12) for name, bound in bounds.slots.items()} == {
        "product/fprop.input": 5.0,
        "product/fprop.weight": 4.0,
        "product/fprop.accumulator": 1.0,
    }
    assert [round(float(end), 12) for end in (bounds.output.low, bounds.output.high)] == [-9.5, 2.5]
    assert bounds.total({"product/fprop.input": 0.5, "product/fprop.accumulator": 0.25}) == pytest.approx(2.75)
    boxed = bounds_of(step, box={"weight": 0.5}, output="product")
    assert boxed.slots["product/fprop.input"].lipschitz == pytest.approx(6.0)


class Sorted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.after = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.after(torch.erfinv(self.linear(x).tanh()))  # the line of the test
        return result


def test_ops_without_a_rule_are_infinite_and_named() -> None:
    step = traced(Sorted(), torch.ones(2, 3))
    bounds = bounds_of(step)
    (reason,) = bounds.unknown.values()
    assert "aten.erfinv.default" in reason
    assert "no rule" in reason
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    line = next(number for number, text in enumerate(lines, 1) if "# the line of the test" in text)
    assert f"{__file__}:{line}" in reason
    assert bounds.slots["linear/product/fprop.input"].lipschitz == math.inf
    assert bounds.slots["after/product/fprop.weight"].lipschitz == math.inf
    with pytest.raises(AnalysisError, match="hold from 0 to 0.0"):
        bounds.total({"linear/product/fprop.input": 0.1})


def test_calls_that_no_rule_covers_are_infinite() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.linear(x)
            pooled = F.max_pool2d(hidden.view(1, 2, 4, 4), 3, ceil_mode=True).sum()
            chosen = torch.where(hidden > 0, hidden, -hidden).sum()
            return pooled + chosen + F.dropout(hidden, 0.5).sum() + hidden.long().double().sum() + hidden.sum()

    step = traced(Odd(), torch.randn(4, 8), loss=lambda y: y)
    reasons = " ".join(bounds_of(step).unknown.values())
    for part in ("ceil_mode", "aten.gt.Scalar", "depends on values", "draws random", "become torch.int64"):
        assert part in reasons
    assert bounds_of(step).output.low == -math.inf
    assert bounds_of(step).slots["linear/product/fprop.weight"].lipschitz == math.inf


def test_what_is_refused(steps: dict[str, TracedStep]) -> None:
    step = steps["MLP"]
    one = torch.ones(64)
    refused: list[tuple[dict[str, Any], str]] = [
        ({"box": {"fc9.bias": 0.1}}, "no input or parameter 'fc9.bias' in the forward: expected one of"),
        ({"box": {"fc2.bias": -0.1}}, "radius -0.1"),
        ({"box": {"fc2.bias": (one, -one)}}, "is empty"),
        ({"box": {"fc2.bias": (one, one[:3])}}, "shape"),
        ({"box": {"fc2.bias": (one * math.nan, one)}}, "not finite"),
        ({"box": {"fc1.bias": 0.1, "primals_3": 0.1}}, "given twice"),
        ({"radius": math.inf}, "radius inf"),
        ({"errors": {"fc9/product/fprop.input": SlotError(1.0)}}, "no slot 'fc9/product/fprop.input'"),
        ({"errors": {"fc3/product/dgrad.weight": SlotError(1.0)}}, "no slot"),
        ({"output": "fc9/product"}, "no result 'fc9/product'"),
    ]
    for options, message in refused:
        with pytest.raises(AnalysisError, match=message):
            bounds_of(step, **options)
    mixed = steps["Mixed"]
    indices = next(name for name, value in mixed.inputs.items() if not value.is_floating_point() and value.dim() == 2)
    with pytest.raises(AnalysisError, match="no tensor of real numbers"):
        bounds_of(mixed, box={indices: 0.1})
    with pytest.raises(AnalysisError, match="is no error"):
        SlotError(relative=math.nan)
    bounds = bounds_of(step)
    with pytest.raises(AnalysisError, match="no bound of a slot 'fc9'"):
        bounds.total({"fc9": 0.0})
    bad = replace(step, inputs={**step.inputs, "primals_1": step.inputs["primals_1"] / 0})
    with pytest.raises(AnalysisError, match="'primals_1' is not finite"):
        bounds_of(bad)
