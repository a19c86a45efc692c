"""What a rule of condition numbers is, and those of constants and copies.

``kappa_i = sum_j |x_j dy_i/dx_j| / |y_i|`` over all elements of the floating-point arguments (Higham 2002, 1.6), in
float64 at the values that the step has. Integers, booleans and numbers in the graph are exact.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from precc.passes.condition_sample import Sampler

__all__ = [
    "CONSTANT",
    "COPY",
    "Kappas",
    "Rule",
    "copied",
    "elements",
    "elementwise",
    "in_two",
    "is_real",
    "linear",
    "of_each",
    "ratio",
    "size",
]

#: Of one result, or of each of several; None for those that are no floating-point tensors.
Kappas = Tensor | tuple[Tensor | None, ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """The rule of one op.

    Args:
        name: its formula and source.
        kappas: of the sampler, the op's value and its arguments: float64 numbers of a sample, in any order.
        bound: whether they may be larger than the condition numbers.
        taken: of a rule in two parts, the first: what of the arguments is read, by the sampler.
        function: the second, from that to condition numbers; it takes tensors with any dimensions before their own.
        each: whether it answers for several results, from each result alone.
    """

    name: str
    kappas: Callable[..., Kappas]
    bound: bool = False
    taken: Callable[..., Sequence[Any]] | None = None
    function: Callable[..., Tensor] | None = None
    each: bool = False


def in_two(name: str, taken: Callable[..., Sequence[Any]], function: Callable[..., Tensor]) -> Rule:
    """A rule of one result in two parts: what it reads of many nodes can be stacked. The first sees no keywords."""

    def kappas(sampler: Sampler, y: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return function(*taken(sampler, y, *args), **kwargs).flatten()

    return Rule(name, kappas, taken=taken, function=function)


def of_each(name: str, function: Callable[[Tensor], Tensor]) -> Rule:
    """A rule from elements of each result that is a floating-point tensor."""

    def kappas(sampler: Sampler, value: Any, *args: Any, **kwargs: Any) -> Kappas:
        if isinstance(value, Tensor):
            return function(sampler.raw(value))
        return tuple(function(sampler.raw(own)) if is_real(own) else None for own in value)

    return Rule(name, kappas, function=function, each=True)


def ratio(numerator: Tensor, y: Tensor) -> Tensor:
    """``numerator / |y|``: 0 where the numerator is, infinite where y alone is 0, NaN where one of them is not finite.

    >>> ratio(torch.tensor([0.0, 1.0, 3.0, 1.0]), torch.tensor([0.0, 0.0, -2.0, torch.inf])).tolist()
    [0.0, inf, 1.5, nan]
    """
    quotient = (numerator / y).abs_().nan_to_num_(0.0, math.inf, math.inf)  # faster than by masks
    return quotient.add_(y, alpha=0).add_(numerator, alpha=0)  # NaN where one is not finite, for 0 times that is


def is_real(x: Any) -> bool:
    """Whether it is a tensor of floating-point numbers."""
    return isinstance(x, Tensor) and x.is_floating_point()


def size(x: Any, factor: Any = 1) -> Tensor | float:
    """``|factor x|``; 0 if x is exact."""
    return (x * factor).abs() if is_real(x) else 0.0


def elements(sampler: Sampler, y: Tensor, *args: Any) -> Sequence[Any]:
    """Of each tensor, broadcast to the shape of the result."""
    return [sampler.raw(own, y.shape) if isinstance(own, Tensor) else own for own in args]


def elementwise(name: str, function: Callable[..., Tensor]) -> Rule:
    """A rule from elements of the arguments, in float64, to condition numbers."""

    def exact(*args: Any, **kwargs: Any) -> Tensor:
        return function(*(own.double() if is_real(own) else own for own in args), **kwargs)

    return in_two(name, elements, exact)


def copied(y: Tensor) -> Tensor:
    """1, and 0 where y is 0."""
    y = y.double()
    return y.sign().abs_().add_(y, alpha=0)  # NaN where it is not finite


#: Of results that do not change with the values of floating-point arguments.
CONSTANT = of_each("constant: 0", lambda y: torch.zeros_like(y, dtype=torch.float64))

#: Of results each element of which is an element of an argument, with its sign or times an exact number, or 0.
COPY = of_each("copy: 1 where y is not 0 (relative errors are kept as they are)", copied)


def linear(name: str, op: Callable[..., Tensor], *, by_item: bool = False) -> Rule:
    """A sum of elements of floating-point arguments with coefficients of one sign: ``f(|x|) / |f(x)|``.

    Args:
        name: of the rule.
        op: the function.
        by_item: whether it treats items of the first dimension of tensors of 4 dimensions alike: a few are enough.
    """

    def kappas(sampler: Sampler, y: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        few = sampler.rows_of(len(y), y[0].numel()) if by_item and y.dim() == 4 and len(y) else None
        taken = [own if few is None or not isinstance(own, Tensor) else own[few.to(own.device)] for own in args]
        exact = [own.double() if is_real(own) else own for own in taken]
        sizes = op(*(own.abs() if is_real(own) else own for own in exact), **kwargs)
        return sampler.take(ratio(sizes.abs(), op(*exact, **kwargs)))

    return Rule(name, kappas)
