"""The result that an operand shows, where both have slots: what was rounded when it was stored is not rounded again."""

from dataclasses import dataclass

from precc.formats import Granularity
from precc.plan import PrecisionPlan
from precc.precision import AS_STORED, Precision

__all__ = ["Source", "rounded_in"]


@dataclass(frozen=True, slots=True)
class Source:
    """The result, with a slot of its own, that an operand's values are.

    Args:
        slot: of the result.
        rectified: whether negative values became 0 in between.
    """

    slot: str
    rectified: bool

    def repeats(self, precision: Precision) -> bool:
        """Whether to round the result, and then the operand, in this one precision is to round once.

        Scales that both find for themselves are the same if the largest magnitudes are, and those of blocks are not.
        """
        if precision.granularity in (None, Granularity.STATIC):
            return True
        return precision.granularity is Granularity.TENSOR and not (self.rectified or precision.history)


def rounded_in(plan: PrecisionPlan, slot: str, source: Source | None) -> Precision:
    """A slot's precision under a plan; float64, which rounds nothing, where that happened as the result was stored."""
    own = plan.precision(slot)
    before = source is not None and plan.precision(source.slot) == own and source.repeats(own)
    return AS_STORED if before else own
