"""Random trials of rules of intervals: values and differences of values at sampled points against the bounds.

Ends and points lie on grids so coarse that products and sums of them are exact in float64: there is no tolerance for
linear ops, and for others one of a few units in the last place of the values.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from precc.analysis.intervals import Interval
from precc.passes.interval_rules import Rule

__all__ = ["Call", "box", "points", "slope_violations", "value_violations"]

_NOISE = 2.0**-44


@dataclass(frozen=True)
class Call:
    """A call of an op with intervals among its arguments, and points in them, by position (in a list: the same way)."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    samples: dict[int, Tensor | list[Tensor]]


def box(generator: torch.Generator, shape: tuple[int, ...], exponent: int = 0, *, positive: bool = False) -> Interval:
    """Ends of 7 bits in 13 binades around ``2**exponent``: points, narrow and wide boxes, many with 0."""
    scale = 2.0 ** (torch.randint(-8, 5, shape, generator=generator).double() + exponent)
    middle = torch.randint(-32, 33, shape, generator=generator).double()
    radius = torch.randint(0, 33, shape, generator=generator) * torch.randint(0, 2, shape, generator=generator)
    radius = torch.where(torch.rand(shape, generator=generator) < 0.3, radius // 16, radius)
    low, high = (middle - radius) * scale, (middle + radius) * scale
    if positive:
        low, high = low.abs().minimum(high.abs()), low.abs().maximum(high.abs())
        low = torch.where(low == 0, high / 4, low) + 2.0 ** (exponent - 8)
        high = high + 2.0 ** (exponent - 8)
    return Interval(torch.minimum(low, high), high)


def points(generator: torch.Generator, x: Interval, count: int) -> Tensor:
    """Points of a box, corners among them, ``[count, *shape]``: each element at k / 16 of its interval."""
    share = torch.randint(-8, 25, (count, *x.shape), generator=generator).clamp(0, 16).double() / 16
    return x.low + (x.high - x.low) * share


def _flat(x: Tensor) -> Tensor:
    return x.reshape(len(x), -1)


def _with(call: Call, replaced: dict[int, Any]) -> tuple[Any, ...]:
    plain = (argument.low if isinstance(argument, Interval) else argument for argument in call.args)
    return tuple(replaced.get(position, argument) for position, argument in enumerate(plain))


def results(op: Callable[..., Any], call: Call) -> list[Tensor]:
    """The results of an op that are real tensors, at all points, by one vectorized call."""

    def run(samples: dict[int, Any]) -> Any:
        found = op(*_with(call, samples), **call.kwargs)
        return tuple(found) if isinstance(found, list | tuple) else (found,)

    return list(torch.vmap(run)(call.samples))


def _values(rule: Rule, call: Call) -> list[Interval]:
    found = rule.value(*call.args, **call.kwargs)
    return list(found) if isinstance(found, tuple) else [found]


def value_violations(op: Callable[..., Any], rule: Rule, call: Call, outputs: int, *, exact: bool) -> int:
    """In how many points a value of the first so many outputs leaves its interval."""
    wrong = torch.zeros(0, dtype=torch.bool)
    for interval, values in list(zip(_values(rule, call), results(op, call), strict=True))[:outputs]:
        margin = 0.0 if exact else _NOISE * 2.0**-6 * values.abs().nan_to_num(0, 0, 0)
        outside = ~((interval.low - margin <= values) & (values <= interval.high + margin))
        whole = (interval.low == -torch.inf) & (interval.high == torch.inf)
        outside &= ~(whole & values.isnan())
        assert interval.shape == values.shape[1:]
        own = _flat(outside).any(1)
        wrong = own if not len(wrong) else wrong | own
    return int(wrong.sum())


def slope_violations(
    op: Callable[..., Any], rule: Rule, call: Call, outputs: int, generator: torch.Generator, *, exact: bool
) -> int:
    """Between how many neighbours a difference of values is none of ``rows (x - y)``, or above the norm's bound."""
    values = results(op, call)[:outputs]
    rows = [box(generator, (2, *value.shape[1:])) for value in values]
    several = isinstance(rule.value(*call.args, **call.kwargs), tuple)
    unused = len(results(op, call)) - outputs
    found = list(rule.slopes([*rows, *[None] * unused] if several else rows[0], *call.args, **call.kwargs))
    low, high, size = _product_with_differences(call, found)
    wanted, noise = torch.zeros_like(low), _NOISE * size
    for value, own in zip(values, rows, strict=True):
        chosen = points(generator, own, 1)[0]
        wanted = wanted + torch.einsum("rk,sk->rs", _flat(chosen), _flat(value.diff(dim=0)))
        sizes = value.abs()[1:] + value.abs()[:-1] if not exact else value.diff(dim=0).abs()
        noise = noise + _NOISE * torch.einsum("rk,sk->rs", _flat(chosen).abs(), _flat(sizes))
    defined = wanted.isfinite() & noise.isfinite()
    outside = ~((low - noise <= wanted) & (wanted <= high + noise)) & defined
    return int((outside.any(0) | _above_norms(rule, call, values, exact)).sum())


def _argument_samples(call: Call, argument: Interval) -> Tensor:
    for position, samples in call.samples.items():
        own = call.args[position]
        if own is argument:
            assert isinstance(samples, Tensor)
            return samples
        if isinstance(own, list):
            for part, part_samples in zip(own, samples, strict=True):
                if part is argument:
                    return part_samples
    raise AssertionError("rows of something that is no argument")


def _product_with_differences(call: Call, found: list[tuple[Interval, Interval]]) -> tuple[Tensor, Tensor, Tensor]:
    totals = [torch.zeros((), dtype=torch.float64)] * 3
    for argument, rows in found:
        assert rows.shape[1:] == argument.shape
        change = _flat(_argument_samples(call, argument).diff(dim=0))[None]
        ends = [torch.where(change == 0, 0.0, _flat(end)[:, None] * change) for end in (rows.low, rows.high)]
        least, most = torch.minimum(*ends), torch.maximum(*ends)
        parts = (least.sum(-1), most.sum(-1), torch.maximum(least.abs(), most.abs()).sum(-1))
        totals = [total + part for total, part in zip(totals, parts, strict=True)]
    return totals[0], totals[1], totals[2]


def _above_norms(rule: Rule, call: Call, values: list[Tensor], exact: bool) -> Tensor:
    """Where ``max |f(x) - f(y)| > sum norm max |x - y|``; arguments whose norm is not known make it infinite."""
    norms = list(rule.norms(*call.args, **call.kwargs))
    named = {id(argument) for argument, _ in norms}
    flat = [part for argument in call.args for part in (argument if isinstance(argument, list) else [argument])]
    if any(isinstance(part, Interval) and part.low is not part.high and id(part) not in named for part in flat):
        return torch.zeros(len(values[0]) - 1, dtype=torch.bool)
    bound = torch.zeros(len(values[0]) - 1, dtype=torch.float64)
    for argument, norm in norms:
        change = _flat(_argument_samples(call, argument).diff(dim=0)).abs().amax(1)
        bound = bound + torch.where(change == 0, 0.0, change * norm)
    wrong = torch.zeros_like(bound, dtype=torch.bool)
    for value in values:
        change = _flat(value.diff(dim=0)).abs().amax(1)
        noise = 0.0 if exact else _flat(value).abs().amax(1)
        noise = _NOISE * (change if exact else noise[1:] + noise[:-1])  # type: ignore[index]
        wrong |= (change > bound + noise) & change.isfinite() & noise.isfinite()
    return wrong
