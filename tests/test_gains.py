"""Gains in closed form and by differences of a sample, against the Jacobian of each argument."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx import Graph, Node

from precc.passes.condition_elementwise import AT_ONE_PLACE
from precc.passes.condition_sample import Sampler
from precc.passes.gain_rules import GAIN_RULES, Call, GainRule, gain_of_differences
from tests.test_condition import CASES, DECOMPOSED, function_of, normalized, real, seeded

_aten = torch.ops.aten

#: Formulas that take squares at different places as independent are exact where all of them are equal.
EVEN = {_aten.convolution.default, _aten.native_layer_norm.default, _aten.native_group_norm.default}

OWN = {
    _aten.add.Scalar: lambda g: (real(g, 3, 4), 2.0),
    _aten.sub.Scalar: lambda g: (real(g, 3, 4), 2.0),
    _aten.mul.Scalar: lambda g: (real(g, 3, 4), -3.0),
    _aten.div.Scalar: lambda g: (real(g, 3, 4), -3.0),
    _aten.rsub.Scalar: lambda g: (real(g, 3, 4), 2.0, 4.0),
}


def replaced(own: Any, make: Callable[[Tensor], Any]) -> Any:
    if isinstance(own, tuple | list):
        return type(own)(replaced(part, make) for part in own)
    return make(own) if isinstance(own, Tensor) else own


def gains(op: Any, rule: GainRule, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Mapping[Any, float] | None:
    graph, values = Graph(), {}

    def node(own: Tensor) -> Node:
        found = graph.placeholder(f"x{len(values)}")
        values[found] = own
        return found

    given = replaced(args, node)
    results = op(*args, **kwargs)
    y = results if isinstance(results, Tensor) else results[0]
    square = lambda own: float(values[own].double().square().mean())  # noqa: E731
    return rule(Call(given, kwargs, values.__getitem__, square, y, results, Sampler(10**6, 0)))


def jacobian(op: Any, args: tuple[Any, ...], kwargs: dict[str, Any], place: Any) -> float:
    """The mean square of ``J n``: the sum of squares of J over the number of results."""
    position, inner = place if isinstance(place, tuple) else (place, None)

    def function(x: Tensor) -> Any:
        own = list(args)
        own[position] = x if inner is None else [*own[position][:inner], x, *own[position][inner + 1 :]]
        opened = op in DECOMPOSED or "norm" in str(op) or op is _aten.binary_cross_entropy.default
        plain = function_of(op) if opened else op
        found = plain(*own, **kwargs)
        return found if isinstance(found, Tensor) else found[0]

    x = args[position] if inner is None else args[position][inner]
    found: Any = torch.autograd.functional.jacobian(function, x)
    return float(found.square().sum()) / function(x).numel()


def call(op: Any, index: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    generator = seeded(op)
    generator.manual_seed(generator.initial_seed() + index)
    args, kwargs = (OWN[op](generator), {}) if op in OWN else CASES[op](generator, index)
    if op is _aten._native_batch_norm_legit_functional.default:
        args, kwargs = normalized("batch")(generator, index)
    if op is _aten.convolution.default:
        args = replaced(args, lambda own: torch.where(own < 0, -1.0, 1.0).double())
    elif op in EVEN:
        args = (args[0], *replaced(args[1:], lambda own: torch.where(own < 0, -1.0, 1.0).double()))
    return args, kwargs


def wrong(op: Any, rule: GainRule) -> int:
    count = checked = 0
    with torch.random.fork_rng():
        for index in range(12):
            args, kwargs = call(op, index)
            torch.manual_seed(0)
            found = gains(op, rule, args, kwargs)
            for place, gain in (found or {}).items():
                own = args[place[0]][place[1]] if isinstance(place, tuple) else args[place] if place < len(args) else 0
                if isinstance(own, Tensor):
                    torch.manual_seed(0)
                    count += gain != pytest.approx(jacobian(op, args, kwargs, place), rel=1e-6, abs=1e-12)
                    checked += 1
    assert checked >= 4
    return count


#: Dropout has a random share, which is checked below.
CHECKED = [op for op in GAIN_RULES if op is not _aten.native_dropout.default]


@pytest.mark.parametrize("op", CHECKED, ids=str)
def test_formula_is_the_jacobians(op: Any) -> None:
    assert wrong(op, GAIN_RULES[op]) == 0


@pytest.mark.parametrize(
    ("op", "rule"),
    [
        (_aten.convolution.default, lambda call: {0: call.mean_square(1) * call.value(call.args[1])[0].numel()}),
        (_aten._softmax.default, GAIN_RULES[_aten._log_softmax.default]),
        (_aten.native_layer_norm.default, lambda call: {0: float(call.results[2].square().mean())}),
        (_aten.add.Tensor, GAIN_RULES[_aten.mul.Tensor]),
    ],
)
def test_the_check_sees_a_wrong_formula(op: Any, rule: GainRule) -> None:
    assert wrong(op, rule) > 0


@pytest.mark.parametrize(("share", "training", "expected"), [(0.25, False, {0: 1.0}), (1.0, True, None)])
def test_dropout_of_nothing_or_all(share: float, training: bool, expected: Mapping[int, float] | None) -> None:
    op = _aten.native_dropout.default
    assert gains(op, GAIN_RULES[op], (torch.ones(4), share, training), {}) == expected


def test_padding_that_cuts_has_no_formula() -> None:
    op = _aten.constant_pad_nd.default
    assert gains(op, GAIN_RULES[op], (torch.ones(4), [-1, 0]), {}) is None


def test_weights_of_half_precision_have_their_squares() -> None:
    op = _aten.convolution.default
    weight = torch.full((1, 1, 1), 2.0**-13, dtype=torch.float16)
    args = (torch.ones(1, 1, 4, dtype=torch.float16), weight, None, [1], [0], [1], False, [0], 1)
    found = gains(op, GAIN_RULES[op], args, {})
    assert found is not None
    assert found[0] == 2.0**-26


def test_dropout_keeps_a_share() -> None:
    x = torch.ones(10_000)
    torch.manual_seed(0)
    found = gains(_aten.native_dropout.default, GAIN_RULES[_aten.native_dropout.default], (x, 0.25, True), {})
    assert found is not None
    assert found[0] == pytest.approx(1 / 0.75, rel=0.02)


@pytest.mark.parametrize("op", [_aten.tanh.default, _aten.gelu.default, _aten.relu.default, _aten.div.Tensor], ids=str)
def test_differences_are_near_the_jacobian(op: Any) -> None:
    assert op in AT_ONE_PLACE
    generator = torch.Generator().manual_seed(0)
    args = [torch.randn(64, generator=generator).double() + 3 * (op is _aten.div.Tensor) for _ in range(4)]
    two = 2 if op is _aten.div.Tensor else 1
    rows = [tuple(args[:two]), tuple(args[-two:])]
    found = gain_of_differences(op, *(torch.stack(own) for own in zip(*rows, strict=True)))
    for row, own in zip(rows, found, strict=True):
        for position, gain in enumerate(own):
            assert gain == pytest.approx(jacobian(op, row, {}, position), rel=0.02)
