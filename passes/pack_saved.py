"""Keep for the backward the rounded copy that it reads, packed, in the place of the value that it would round."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from precc.packing import PACK
from precc.passes.pack_operands import packed_meta, unpacked
from precc.passes.saved_values import SavedRounding, SavedValue, saved_values
from precc.plan import PrecisionPlan
from precc.protocols import GraphContext

__all__ = ["PackSaved"]

_aten = torch.ops.aten

#: Bits of a code as far as a graph knows, which any plan may come to, and of a truth value.
_BITS = 8


@dataclass(frozen=True, slots=True)
class PackSaved:
    """A value of the forward of which the backward reads roundings alone is rounded and packed by the forward.

    Both halves change; results do not. Codes lie in the order in which a product reads them. Of the result of a relu,
    the backward of the relu gets what it asks for beside, one byte an element.

    A value that the backward rounds in several slots is packed once for each, for they may have other formats in
    another plan: if codes of eight bits then need less memory than the value. In a plan of wider formats, or of none,
    several copies need more. A graph for one plan has one copy for all slots that round alike in it, if the copies
    need less. What comes in and what a caller sees, which are
    in memory in any case, stay as they are. Slots with a history record what they round in the forward then, also of
    a forward that no backward follows.
    """

    name: ClassVar[str] = "pack_saved"

    def run(self, forward: GraphModule, backward: GraphModule, visible_outputs: int, context: GraphContext) -> None:
        """Change both halves of a partitioned graph.

        Args:
            forward: its forward; the values that it saves are outputs behind those that a caller sees.
            backward: its placeholders have the names of the values that are saved.
            visible_outputs: how many outputs a caller sees.
            context: of the graph.
        """
        plan = next((node for node in forward.graph.find_nodes(op="placeholder") if node.name == context.plan), None)
        if plan is None:
            return
        output = forward.graph.output_node()
        outputs: list[Any] = list(output.args[0])  # type: ignore[arg-type]
        for own in list(saved_values(forward, backward, visible_outputs)):
            if not _is_less(own, context.only_plan):
                continue
            kept = _Forward(forward.graph, plan, context.only_plan).keep(own)
            place = visible_outputs + outputs[visible_outputs:].index(own.value)
            outputs[place : place + 1] = kept.nodes
            _read(backward.graph, own, kept)
        output.args = (tuple(outputs),)
        for graph in (forward, backward):
            graph.graph.lint()
            graph.recompile()


def _is_less(own: SavedValue, plan: PrecisionPlan | None) -> bool:
    """Whether a value needs more memory than what is kept in its place, as far as is known."""
    copies = {rounding.copy(plan): rounding.operand for rounding in own.roundings}
    if plan is None and len(copies) == 1 and not own.gates:
        return True  # at most as much, in any plan
    each = [_BITS if plan is None else operand.computed_in(plan).bits for operand in copies.values()]
    bits: int = own.value.meta["val"].dtype.itemsize * 8
    return sum(each) + (_BITS if own.gates else 0) < bits


@dataclass(frozen=True, slots=True)
class _Kept:
    """What the forward keeps in the place of a value: a packed tensor for each rounding, and where gates are closed."""

    packed: tuple[Node, ...]
    closed: Node | None

    @property
    def nodes(self) -> list[Node]:
        """Each once."""
        return list(dict.fromkeys([*self.packed, *([self.closed] if self.closed is not None else [])]))


@dataclass(frozen=True, slots=True)
class _Forward:
    """What is added to the graph of a forward, each node as soon as it can be: the value is not needed longer then."""

    graph: Graph
    plan: Node
    only_plan: PrecisionPlan | None

    def keep(self, own: SavedValue) -> _Kept:
        copies: dict[tuple[object, ...], Node] = {}
        packed: list[Node] = []
        for rounding in own.roundings:
            copy = rounding.copy(self.only_plan)
            copies[copy] = copies[copy] if copy in copies else self._packed(own.value, rounding)
            packed.append(copies[copy])
        kept = _Kept(tuple(packed), self._closed(own) if own.gates else None)
        for node in kept.nodes:
            if own.value.meta.get(_UNCHECKED):
                node.meta[_UNCHECKED] = True
        return kept

    def _closed(self, own: SavedValue) -> Node:
        value = own.value.meta["val"]
        with value.fake_mode:
            meta = {**own.gates[0].meta, "val": torch.empty_like(value, dtype=torch.bool)}
        return self._add(_aten.le.Scalar, (own.value, 0), meta, f"closed_{own.value.name}")

    def _packed(self, value: Node, rounding: SavedRounding) -> Node:
        shown = value
        for view in rounding.views:
            shown = self._shown(shown, view)
        arguments = (shown, self.plan, rounding.row, rounding.transposed)
        return self._add(PACK, arguments, packed_meta(rounding.node), f"packed_{rounding.node.name}")

    def _shown(self, value: Node, view: Node) -> Node:
        """The view that the backward has, here."""
        here: dict[str, Node] = {node.name: node for node in self.graph.nodes}
        known = here.get(view.name)
        if known is not None and known.target is view.target and known.args[0] is value:
            return known
        sizes: tuple[Any, ...] = torch.fx.map_arg(view.args[1:], lambda own: here[own.name])
        return self._add(view.target, (value, *sizes), view.meta, view.name)

    def _add(self, target: Any, arguments: tuple[Any, ...], meta: dict[str, Any], name: str) -> Node:
        with self.graph.inserting_after(self._last(arguments)):
            node = self.graph.create_node("call_function", target, arguments, {}, name)
        node.meta = dict(meta)
        return node

    def _last(self, arguments: Iterable[Any]) -> Node:
        """Behind which node all arguments are known."""
        read: set[Node] = set()
        torch.fx.map_arg(tuple(arguments), lambda own: read.add(own))
        known: list[Node] = [node for node in self.graph.nodes if node in read or node.op == "placeholder"]
        return known[-1]


#: The mark of values whose versions autograd does not check; it wants them behind the others.
_UNCHECKED = "saved_tensor_with_no_vc_check"


def _read(graph: Graph, own: SavedValue, kept: _Kept) -> None:
    """In the backward: what was kept comes in in the place of the value."""
    inputs = {node: _placeholder(graph, own.placeholder, node) for node in kept.nodes}
    for rounding, packed in zip(own.roundings, kept.packed, strict=True):
        with graph.inserting_before(rounding.node):
            values = unpacked(graph, inputs[packed], rounding.node, rounding.transposed, rounding.sizes)
        rounding.node.replace_all_uses_with(values)
    for gate in own.gates:
        assert kept.closed is not None
        with graph.inserting_before(gate):
            open_only = graph.call_function(_aten.masked_fill.Scalar, (gate.args[0], inputs[kept.closed], 0))
        open_only.meta = dict(gate.meta)
        gate.replace_all_uses_with(open_only)
    _erase(graph, own.placeholder)


def _placeholder(graph: Graph, before: Node, made: Node) -> Node:
    with graph.inserting_before(before):
        node = graph.placeholder(made.name)
    value = made.meta["val"]
    assert isinstance(value, Tensor)
    node.meta = {"val": value}
    return node


def _erase(graph: Graph, node: Node) -> None:
    for user in list(node.users):
        _erase(graph, user)
    graph.erase_node(node)
