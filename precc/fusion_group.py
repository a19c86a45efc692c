"""Groups of nodes that one kernel, or a few in a row, compute together: what a pass that fuses hands to a backend."""

from dataclasses import dataclass
from enum import Enum

__all__ = ["FusionGroup", "GroupKind"]


class GroupKind(Enum):
    """What a group is built around."""

    PRODUCT = "product"  #: a matrix product: roundings of its operands before it, pointwise operations behind it
    ROWS = "rows"  #: operations along the last dimension, and the roundings of what they give
    CAST = "cast"  #: roundings of one value alone


@dataclass(frozen=True, slots=True)
class FusionGroup:
    """The record of a node ``call_module`` whose submodule computes what the group's nodes did, bit for bit.

    Args:
        name: an identifier, after what it computes; unique in a graph: ``fc1_product_fprop``.
        kind: what it is built around.
        nodes: names of its nodes in the graph that was fused, in graph order.
        slots: those in which it rounds, and the accumulators of its products.
        parameters: positions of the arguments that hold parameters, in the values of which nothing changes from one
            forward to the next unless somebody writes to them.
    """

    name: str
    kind: GroupKind
    nodes: tuple[str, ...]
    slots: tuple[str, ...]
    parameters: tuple[int, ...] = ()
