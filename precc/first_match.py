"""Which of several rules decides a slot: the first that fits it."""

from collections.abc import Iterable
from functools import lru_cache

from precc.accumulation.sums import Sums
from precc.precision import AS_STORED, Precision
from precc.rule import Rule
from precc.slots import Slot, names_result, names_update

__all__ = ["FirstMatch", "first_match"]


class FirstMatch:
    """The answers of rules, each found once: thousands of slots are asked for, by each plan anew."""

    def __init__(self, rules: tuple[Rule, ...]) -> None:
        self.rules = rules
        self._precisions = [rule.precision for rule in rules]
        self._positions: dict[str, int | None] = {}

    def position(self, name: str) -> int | None:
        """The position of the rule that decides the slot of this name; None if no rule does.

        Raises:
            PlanError: there are rules, and the name is of no slot.
        """
        if not self.rules:
            return None
        try:
            return self._positions[name]
        except KeyError:
            slot = Slot.parse(name)
            found = next((position for position, rule in enumerate(self.rules) if rule.fits(slot)), None)
            return self._positions.setdefault(name, found)

    def precision(self, name: str, otherwise: Precision) -> Precision:
        """What the slot of this name gets, unless it is an accumulator; `otherwise`, if no rule decides it."""
        position = self.position(name)
        if position is None:
            return otherwise
        rule = self.rules[position]
        kept = (names_result(name) and not rule.decides_results) or (names_update(name) and not rule.decides_updates)
        if kept:
            return AS_STORED
        return self._precisions[position] or otherwise

    def accumulator(self, name: str, otherwise: Sums | None) -> Sums | None:
        """How a product sums whose accumulator has this name; `otherwise`, if no rule decides it."""
        position = self.position(name)
        return otherwise if position is None else self.rules[position].accumulator

    def counts(self, names: Iterable[str]) -> list[int]:
        """How many of these slots each rule decides."""
        counts = [0] * len(self.rules)
        for position in map(self.position, names):
            if position is not None:
                counts[position] += 1
        return counts


@lru_cache(maxsize=64)
def first_match(rules: tuple[Rule, ...]) -> FirstMatch:
    """The answers of these rules, shared by all plans that have them."""
    return FirstMatch(rules)
