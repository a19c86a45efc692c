"""Integers from short lists under constraints on sums of products of them: which choices there are."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Literal

__all__ = ["Constraint", "Polynomial", "solutions"]

#: A constraint on more choices than these narrows lists by its bounds alone.
_SUPPORTS = 64

_Lists = dict[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Polynomial:
    """A sum of products of variables, with coefficients from 0 on.

    >>> Polynomial(((2, ("rows", "columns")), (5, ()))).of({"rows": 3, "columns": 4})
    29
    """

    terms: tuple[tuple[float, tuple[str, ...]], ...]

    @property
    def names(self) -> frozenset[str]:
        """Its variables."""
        return frozenset(name for _, names in self.terms for name in names)

    def of(self, values: Mapping[str, int]) -> float:
        """Its value."""
        return sum(factor * prod(values[name] for name in names) for factor, names in self.terms)

    def bounds(self, lists: Mapping[str, Sequence[int]]) -> tuple[float, float]:
        """The least and the largest value of it: values are positive."""
        least = {name: min(lists[name]) for name in self.names}
        most = {name: max(lists[name]) for name in self.names}
        return self.of(least), self.of(most)


@dataclass(frozen=True, slots=True)
class Constraint:
    """``left == right``, ``left <= right``, or ``left % right == 0``."""

    left: Polynomial
    relation: Literal["==", "<=", "%"]
    right: Polynomial

    @property
    def names(self) -> frozenset[str]:
        """Its variables."""
        return self.left.names | self.right.names

    def holds(self, values: Mapping[str, int]) -> bool:
        """Whether it does of these."""
        left, right = self.left.of(values), self.right.of(values)
        if self.relation == "%":
            return left % right == 0
        return left == right if self.relation == "==" else left <= right

    def may_hold(self, lists: Mapping[str, Sequence[int]]) -> bool:
        """Whether no bound says that it cannot, of values from these lists."""
        if self.relation == "%":
            return True
        (low, high), (least, most) = self.left.bounds(lists), self.right.bounds(lists)
        return low <= most and (self.relation == "<=" or least <= high)


def solutions(lists: Mapping[str, Sequence[int]], constraints: Sequence[Constraint]) -> Iterator[dict[str, int]]:
    """All choices of one positive value from each list under which the constraints hold, in the lists' order.

    Values that no choice of a constraint's other variables supports are left out first, as long as there are any
    (arc consistency); then variables are set one after the other.
    """
    narrowed = _narrowed({name: tuple(own) for name, own in lists.items()}, constraints)
    if all(narrowed.values()):
        yield from _set(narrowed, list(narrowed), {}, constraints)


def _narrowed(lists: _Lists, constraints: Sequence[Constraint]) -> _Lists:
    before: _Lists | None = None
    while lists != before and all(lists.values()):
        before = dict(lists)
        for own in constraints:
            for name in own.names:
                lists[name] = tuple(value for value in lists[name] if _supported(own, lists | {name: (value,)}))
    return lists


def _supported(constraint: Constraint, lists: _Lists) -> bool:
    names = sorted(constraint.names)
    choices = [lists[name] for name in names]
    if not all(choices) or not constraint.may_hold(lists):
        return False
    if prod(map(len, choices)) > _SUPPORTS:
        return True
    return any(constraint.holds(dict(zip(names, values, strict=True))) for values in product(*choices))


def _set(
    lists: _Lists, names: list[str], chosen: dict[str, int], constraints: Sequence[Constraint]
) -> Iterator[dict[str, int]]:
    if not names:
        if all(own.holds(chosen) for own in constraints):
            yield dict(chosen)
        return
    first, *rest = names
    for value in lists[first]:
        fixed = lists | {first: (value,)}
        if all(own.may_hold(fixed) for own in constraints if first in own.names):
            yield from _set(fixed, rest, chosen | {first: value}, constraints)
