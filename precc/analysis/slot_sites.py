"""Where the slots of a traced step are, and which of them read the same values."""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from precc.analysis.step_runs import Values, computed
from precc.analysis.traced_step import TracedStep
from precc.annotations import Operand, Product, annotation_of, products_of, results_of, roundings_of
from precc.plan import PrecisionPlan
from precc.precision import Precision
from precc.slots import Slot
from precc.source import Source, rounded_in

__all__ = ["VIEWS", "SlotSite", "groups_of", "is_view", "passes_rounding", "sites_of", "uses_of"]

#: Ops whose result holds the values of their first argument, at other places.
VIEWS = frozenset(
    f"aten.{name}"
    for name in (
        "_reshape_alias",
        "_unsafe_view",
        "alias",
        "clone",
        "detach",
        "expand",
        "permute",
        "reshape",
        "squeeze",
        "t",
        "transpose",
        "unsqueeze",
        "view",
    )
)


#: Whose result is the same, rounded before or after.
_RECTIFIERS = frozenset({torch.ops.aten.relu.default})


@dataclass(frozen=True, slots=True, eq=False)
class SlotSite:
    """One slot of a step: its rounding node, and the node whose values it shows.

    Args:
        node: the ``precc.round`` node.
        operand: of the product, or the result.
        product: that reads it; None of a result.
        origin: the node that computed the values, before views of them; of an operand that shows a result which has a
            slot, the rounding node there.
        chain: the views from there to the slot, in order.
        source: of an operand whose values are those of a result, or are it once it is rectified; None of others.
    """

    node: Node
    operand: Operand
    product: Product | None
    origin: Node
    chain: tuple[Node, ...]
    source: Source | None = None

    @property
    def name(self) -> str:
        """Of the slot."""
        return self.operand.slot.name

    @property
    def elements(self) -> int:
        """Values at the origin."""
        return math.prod(self.origin.meta["val"].shape)

    def rounded_in(self, plan: PrecisionPlan) -> Precision:
        """Its precision under a plan; as `precc.source.rounded_in`."""
        return rounded_in(plan, self.name, self.source)

    def through(self, value: Tensor, values: Values) -> Tensor:
        """What the slot reads if the origin has this value."""
        for node in self.chain:
            own = {argument: values.get(argument) for argument in node.all_input_nodes}
            shown = node.args[0]
            assert isinstance(shown, Node)
            value = computed(node, {**own, shown: value})
        return value

    def back(self, shown: Tensor, origin: Tensor) -> Tensor:
        """Of each value of the origin, what belongs to it in the slot's layout."""
        if not self.chain:
            return shown
        index = self.positions(torch.arange(origin.numel(), device=origin.device))
        return shown.reshape(-1)[index].reshape(origin.shape)

    def positions(self, index: Tensor) -> Tensor:
        """Where elements of the origin stand in the slot's layout; both are row-major numbers of elements."""
        shape = tuple(self.origin.meta["val"].shape)
        for node in self.chain:
            index, shape = _moved(node, index, shape)
        return index


def _moved(node: Node, index: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, tuple[int, ...]]:
    after = tuple(node.meta["val"].shape)
    order = _permutation(node, len(shape))
    if order is None and "expand" not in str(node.target):
        return index, after
    where = torch.unravel_index(index, shape) if shape else ()
    if order is not None:
        where = tuple(where[dim] for dim in order)
    else:
        where = (*(torch.zeros_like(index) for _ in range(len(after) - len(shape))), *where)
    moved = torch.zeros_like(index)
    for size, own in zip(after, where, strict=True):
        moved = moved * size + own
    return moved, after


def _permutation(node: Node, dims: int) -> Sequence[int] | None:
    name, arguments = str(node.target), node.args
    order = list(range(dims))
    given: Any = arguments[1:]
    if name.startswith("aten.permute"):
        order = [dim % dims for dim in given[0]]
    elif name.startswith("aten.transpose"):
        first, second = given[0] % dims, given[1] % dims
        order[first], order[second] = order[second], order[first]
    elif name.startswith("aten.t."):
        order.reverse()
    else:
        return None
    return order


def sites_of(step: TracedStep) -> tuple[SlotSite, ...]:
    """The slots of a step in the order of the graph."""
    # found by name: what torch opens fused attention into does not read them where the call did
    roundings = {slot.name: node for node, slot in roundings_of(step.graph.graph)}
    found = []
    for _, product in products_of(step.graph.graph):
        for operand in product.operands:
            rounding = roundings[operand.slot.name]
            shown: Any = rounding.args[0]
            origin, chain = _origin(shown)
            found.append(SlotSite(rounding, operand, product, origin, chain, _source(origin)))
    for _, result in results_of(step.graph.graph):
        if (node := roundings.get(result.slot.name)) is not None:
            value: Any = node.args[0]
            found.append(SlotSite(node, result, None, value, ()))
    return tuple(found)


def groups_of(sites: Sequence[SlotSite]) -> dict[Node, tuple[SlotSite, ...]]:
    """The slots that show the values of one node, by that node."""
    found: dict[Node, tuple[SlotSite, ...]] = {}
    for site in sites:
        found[site.origin] = (*found.get(site.origin, ()), site)
    return found


def uses_of(sites: Sequence[SlotSite]) -> Mapping[Node, tuple[Node, ...]]:
    """What is read at each slot beside its own argument."""
    return {site.node: (site.origin,) for site in sites}


def _origin(node: Node) -> tuple[Node, tuple[Node, ...]]:
    chain: list[Node] = []
    while is_view(node):
        chain.insert(0, node)
        argument = node.args[0]
        assert isinstance(argument, Node)
        node = argument
    return node, tuple(chain)


def _source(origin: Node) -> Source | None:
    """The result with a slot that values are, through views and rectifiers, one by one."""
    node, rectified = origin, False
    while passes_rounding(node):
        rectified |= node.target in _RECTIFIERS
        argument = node.args[0]
        assert isinstance(argument, Node)
        node = argument
    slot = annotation_of(node)
    same = node.meta["val"].numel() == origin.meta["val"].numel() if isinstance(slot, Slot) else False
    return Source(slot.name, rectified) if isinstance(slot, Slot) and same and slot.is_result else None


def passes_rounding(node: Node) -> bool:
    """Whether rounding its first argument is rounding its value: of views, and of rectifiers."""
    return is_view(node) or node.target in _RECTIFIERS


def is_view(node: Node) -> bool:
    """Whether a node shows the values of its first argument, at other places."""
    return _shows_its_first(node.target)


@functools.cache
def _shows_its_first(target: Any) -> bool:
    return isinstance(target, torch._ops.OpOverload) and str(target.overloadpacket) in VIEWS
