"""What an exported file says of itself, beside the graph: its flavor, the plan, and where each slot is."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from precc.backends.onnx.slot_rounding import SlotRounding
from precc.formats import BlockFormat, ElementFormat
from precc.plan import PrecisionPlan
from precc.precision import Precision

__all__ = ["OnnxDocument", "SlotPlace"]


@dataclass(frozen=True, slots=True)
class SlotPlace:
    """Where a slot of the forward is in the file.

    Args:
        rounding: its precision, and along which dimensions scales are found.
        node: the name of the node that computes the product or sum which the slot belongs to.
        result: whether the slot is what that node stores; else it is one of its operands.
        source: the tensor before it is rounded; empty where a weight is stored rounded.
        rounded: the tensor after; the same one where the plan does not change it.
        stored: the ONNX type in which a weight is stored rounded, such as ``FLOAT8E4M3FN``; else empty.
        facts: what an analysis knows of the slot, by name: condition, sensitivity, predicted error and so on.
    """

    rounding: SlotRounding
    node: str
    result: bool
    source: str
    rounded: str
    stored: str = ""
    facts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OnnxDocument:
    """Of one file.

    Args:
        flavor: ``"portable"``, ``"qdq"`` or ``"annotate"``.
        opset: of the default domain.
        plan: the whole plan, backward included.
        places: by slot name, in the order of the graph.
    """

    flavor: str
    opset: int
    plan: PrecisionPlan
    places: Mapping[str, SlotPlace]

    def contradictions(self) -> Iterator[str]:
        """Where a place has another precision than the plan; of a delayed scale, which is settled, another format."""
        for slot, place in self.places.items():
            own, planned = place.rounding.precision, self.plan.precision(slot)
            if planned.history:
                own, planned = _without_scale(own), _without_scale(planned)
            if own != planned:
                yield f"the place of {slot} has {place.rounding.precision}, and the plan {self.plan.precision(slot)}"


def _without_scale(precision: Precision) -> Precision:
    own = precision.format
    element: ElementFormat = own.element if isinstance(own, BlockFormat) else own
    return Precision(element, precision.rounding, None, precision.transform)
