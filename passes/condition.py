"""Condition numbers of every floating-point node of a step, forward and backward, in one run of it.

Each op has a rule (`RULES`), a formula with its source, that is computed in float64 for a sample of the elements at
the values of the step. An op without a rule is perturbed: the root mean square of ``J (s x) / y`` over random signs s,
by central differences in float64. It estimates ``sqrt(sum_j (x_j dy_i/dx_j)**2) / |y_i|``, at most the condition
number (Higham 2002, 1.6). A custom operator may know only the dtypes that it is called with, and keeps them.
"""

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.fx import Node

from precc.analysis.condition import Condition, summaries
from precc.analysis.lost_derivatives import is_torchs
from precc.analysis.node_values import detached, listed
from precc.analysis.slot_sites import is_view
from precc.analysis.stacked_calls import StackedCalls, kept
from precc.analysis.step_runs import StepRunner, Values, unrounded
from precc.analysis.traced_step import TracedStep
from precc.generators import Generators
from precc.passes.condition_elementwise import ELEMENTWISE
from precc.passes.condition_norms import NORM_RULES
from precc.passes.condition_products import PRODUCT_RULES
from precc.passes.condition_rules import CONSTANT, COPY, Kappas, Rule, elements, is_real, ratio
from precc.passes.condition_sample import Sampler
from precc.passes.condition_sums import SUMS
from precc.passes.interval_rules import WithoutRule
from precc.round_op import ROUND

__all__ = ["DIFFERENCES", "RULES", "ConditionNumbers"]

#: The rules by op. Views and roundings are copies; a result that reads no floating-point number is a constant.
RULES: Mapping[Any, Rule] = {**ELEMENTWISE, **SUMS, **NORM_RULES, **PRODUCT_RULES}

_PROBES = 4
_MANY = 32  # rows that are worth a call of their own

_Parts = tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class ConditionNumbers:
    """Find the condition numbers of the nodes that the loss and the gradients depend on.

    Args:
        samples: so many elements of a node at most; of sums as long as an image a few only, each with all its terms.
        seed: of which ones.
    """

    samples: int = 1024
    seed: int = 0

    name: ClassVar[str] = "condition"

    def watcher(self, step: TracedStep) -> "_Watcher":
        """Collects condition numbers in a run of the caller's, by its `watch`."""
        return _Watcher(Sampler(self.samples, self.seed))

    def run(self, step: TracedStep) -> dict[Node, Condition]:
        """The record of each node that calls an op and whose result is floating-point; of several results the first."""
        watcher = self.watcher(step)
        with torch.no_grad():
            StepRunner(step).run(unrounded, watch=watcher.watch)
        return watcher.result()


@dataclass(slots=True, eq=False)
class _Watcher:
    """What was found so far: numbers of a node's results, and values of those, by their place among `calls`."""

    sampler: Sampler
    calls: StackedCalls = field(default_factory=StackedCalls)
    rules: list[Rule] = field(default_factory=list)  # of each place
    samples: dict[Node, Tensor] = field(default_factory=dict)
    parts: dict[Node, _Parts] = field(default_factory=dict)
    copies: dict[Node, int] = field(default_factory=dict)  # the place of a node's views, by that node
    origins: dict[Node, Node] = field(default_factory=dict)

    def watch(self, node: Node, value: Any, values: Values) -> None:
        """Of one node, called before its value is among the others."""
        if node.op != "call_function" or not _has_reals(value):
            return
        if node.target is operator.getitem:
            source, index = node.args
            self.parts[node] = (self.parts[source][index],)  # type: ignore[index]
        elif node.target is ROUND or is_view(node):
            self.parts[node] = (self._copied(node, value),)
        else:
            self.parts[node] = self._computed(node, value, values)

    def result(self) -> dict[Node, Condition]:
        """The records by node."""
        numbers = _all_summaries(self.calls.results())
        records = [Condition(*(*own, rule.name, rule.bound)) for own, rule in zip(numbers, self.rules, strict=True)]
        rows = ((node, [row for row in parts if row is not None]) for node, parts in self.parts.items())
        return {node: records[own[0]] for node, own in rows if own}

    def _copied(self, node: Node, value: Tensor) -> int:
        """A view holds the values of its origin: all views of one have one record."""
        source = node.args[0]
        assert isinstance(source, Node)
        origin = self.origins[node] = self.origins.get(source, source)
        if origin not in self.copies:
            self.copies[origin] = self._of_result(COPY, self._elements(node, detached(value)))
        return self.copies[origin]

    def _computed(self, node: Node, value: Any, values: Values) -> _Parts:
        args, kwargs = _arguments(node, values)
        value = detached(value)
        exact = not _has_reals(args) and not (kwargs and _has_reals(tuple(kwargs.values())))
        rule = CONSTANT if exact else RULES.get(node.target, DIFFERENCES)
        if rule.each and isinstance(value, Tensor):
            return (self._of_result(rule, self._elements(node, value)),)
        if rule.each:
            return tuple(self._of_result(rule, self.sampler.raw(own)) if is_real(own) else None for own in value)
        if rule.taken is None:
            return self._at_once(node.target, rule, value, args, kwargs)
        if rule.taken is elements:
            taken: Sequence[Any] = [self._elements(own, x, value.shape) for own, x in zip(node.args, args, strict=True)]
        else:
            taken = rule.taken(self.sampler, value, *args)
        return (self._add(rule, self._summaries, (rule.function, self._elements(node, value), *taken), **kwargs),)

    def _elements(self, node: Any, x: Any, shape: torch.Size | None = None) -> Any:
        """Some of a node's value, taken once; of one that is broadcast, in its new shape."""
        if not isinstance(x, Tensor):
            return x
        if shape is not None and x.shape != shape:
            return self.sampler.raw(x, shape)
        found = self.samples.get(node)
        if found is None:
            found = self.samples[node] = kept(self.sampler.raw(x))
        return found

    def _of_result(self, rule: Rule, taken: Tensor) -> int:
        return self._add(rule, _summaries_of_values, (rule.function, taken))

    def _add(self, rule: Rule, summaries: Callable[..., Any], args: tuple[Any, ...], **kwargs: Any) -> int:
        self.rules.append(rule)
        return self.calls.add(summaries, args, **kwargs)

    def _summaries(self, function: Callable[..., Tensor], values: Tensor, *taken: Any, **kwargs: Any) -> Any:
        """Of many nodes, as rows."""
        kappas = function(*taken, **kwargs).flatten(1)
        if kappas.shape[1] > self.sampler.samples:
            kappas = kappas[:, self.sampler.positions(kappas.shape[1], self.sampler.samples).to(kappas.device)]
        return _few_or_summaries(kappas, values)

    def _at_once(self, target: Any, rule: Rule, value: Any, args: Any, kwargs: Any) -> _Parts:
        """Of rules that are not in two parts, and where a rule does not hold for these arguments."""
        try:
            found = (
                differences(target, self.sampler, value, args, kwargs)
                if rule is DIFFERENCES
                else rule.kappas(self.sampler, value, *args, **kwargs)
            )
        except WithoutRule:
            return self._at_once(target, DIFFERENCES, value, args, kwargs)
        pairs = [(found, value)] if isinstance(found, Tensor) else zip(found, value, strict=True)
        return tuple(
            self._add(rule, _few_or_summaries, (self.sampler.raw(own), self.sampler.raw(y)))
            if isinstance(own, Tensor) and is_real(y)
            else None
            for own, y in pairs
        )


def _summaries_of_values(function: Callable[..., Tensor], values: Tensor) -> Any:
    return _few_or_summaries(function(values), values)


def _few_or_summaries(kappas: Tensor, values: Tensor) -> Sequence[Any]:
    """Of many rows; a few wait as they are for others of their length."""
    return summaries(kappas, values) if len(kappas) >= _MANY else list(zip(kappas, values, strict=True))


def _all_summaries(found: Sequence[Any]) -> list[Any]:
    calls = StackedCalls()
    waiting = {place: calls.add(summaries, own) for place, own in enumerate(found) if isinstance(own[0], Tensor)}
    numbers = calls.results()
    return [numbers[waiting[place]] if place in waiting else own for place, own in enumerate(found)]


def _arguments(node: Node, values: Values) -> tuple[tuple[Any, ...], dict[str, Any]]:
    kwargs = {name: _read(own, values) for name, own in node.kwargs.items()} if node.kwargs else {}
    return tuple(_read(own, values) for own in node.args), kwargs


def _read(argument: Any, values: Values) -> Any:
    """A node's value, in lists too."""
    if isinstance(argument, Node):
        return detached(values[argument])
    if isinstance(argument, tuple | list):
        return type(argument)(_read(own, values) for own in argument)
    return argument


def _has_reals(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.is_floating_point()
    return isinstance(value, tuple | list) and any(map(_has_reals, value))


def differences(target: Any, sampler: Sampler, value: Any, args: Any, kwargs: Any) -> Kappas:
    """Of an op without a rule, by central differences; random numbers that it draws are the same in each call."""
    leaves, spec = torch.utils._pytree.tree_flatten((args, kwargs))
    exact = [own.double() if is_real(own) and is_torchs(target) else own for own in leaves]
    state = Generators.of(own for own in leaves if isinstance(own, Tensor))

    def called(own: list[Any]) -> list[Any]:
        state.restore()
        own_args, own_kwargs = torch.utils._pytree.tree_unflatten(own, spec)
        results = listed(target(*own_args, **own_kwargs))
        return [own.double() if is_real(own) else own for own in results]

    try:
        found = _root_mean_square(called, exact, sampler)
    finally:
        state.restore()
    return tuple(found) if isinstance(value, tuple | list) else found[0]


def _root_mean_square(called: Callable[[list[Any]], list[Any]], exact: list[Any], sampler: Sampler) -> list[Any]:
    y, h = called(exact), _step(exact)
    totals = [torch.zeros_like(own) if is_real(own) else None for own in y]
    generator = torch.Generator().manual_seed(sampler.seed)
    for _ in range(_PROBES):
        signs = [_signs(own, generator) if is_real(own) else None for own in exact]
        ends = [called([_moved(own, s, by) for own, s in zip(exact, signs, strict=True)]) for by in (h, -h)]
        for total, high, low in zip(totals, *ends, strict=True):
            if total is not None:
                total += ((high - low) / (2 * h)).square() / _PROBES
    return [
        None if total is None else sampler.take(ratio(total.sqrt(), own)) for total, own in zip(totals, y, strict=True)
    ]


def _step(exact: list[Any]) -> float:
    """At which truncation and rounding errors of central differences are about equal: the cube root of epsilon."""
    digits = max(math.log2(torch.finfo(own.dtype).eps) for own in exact if is_real(own))
    return float(2.0 ** round(digits / 3))


def _signs(x: Tensor, generator: torch.Generator) -> Tensor:
    return (torch.randint(0, 2, x.shape, generator=generator) * 2 - 1).to(x)


def _moved(x: Any, signs: Tensor | None, by: float) -> Any:
    return x if signs is None else x * (1 + signs * by)


#: The rule of ops that are in no other.
DIFFERENCES = Rule(
    "perturbed: root mean square of J (s x) / y over random signs s, by central differences", differences
)
