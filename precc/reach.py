"""What the graphs of a net can round beside operands: nodes for more than a plan needs would cost time."""

from collections.abc import Iterator
from dataclasses import dataclass

from precc.accumulation.sums import Sums
from precc.plan import PrecisionPlan

__all__ = ["Reach"]


@dataclass(frozen=True, slots=True)
class Reach:
    """What graphs are built for.

    Args:
        sums: products can round their sums.
        results: results can be rounded.

    >>> Reach(sums=True) | Reach(results=True)
    Reach(sums=True, results=True)
    """

    sums: bool = False
    results: bool = False

    @classmethod
    def of(cls, plan: PrecisionPlan) -> "Reach":
        """What a plan needs."""
        return cls(plan.rounds_sums, plan.rounds_results)

    def __or__(self, other: "Reach") -> "Reach":
        return Reach(self.sums or other.sums, self.results or other.results)

    def missing(self, plan: PrecisionPlan) -> str:
        """What a plan does that these graphs cannot; empty if they can."""
        if plan.rounds_sums and not self.sums:
            name, own = next(_sums_of(plan), ("every product", plan.default_accumulator))
            return f"sums {name!r} in {own}, but the net's graphs were built without accumulators"
        if plan.rounds_results and not self.results:
            return "rounds results, but the net's graphs were built without slots for these"
        return ""


def _sums_of(plan: PrecisionPlan) -> Iterator[tuple[str, Sums]]:
    yield from ((name, own) for name, own in plan.accumulators.items() if own is not None)
    yield from ((rule.path, rule.accumulator) for rule in plan.rules if rule.accumulator is not None)
