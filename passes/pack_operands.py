"""Pack what several products read, or what is rounded once for many forwards: products unpack it as they load it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import SymInt, Tensor
from torch.fx import Graph, GraphModule, Node

from precc.annotations import Product, annotation_of
from precc.fusible_ops import MATRIX_PRODUCTS
from precc.packing import PACK, UNPACK
from precc.passes.fusion_values import rounded_values
from precc.protocols import GraphContext
from precc.round_op import ROUND
from precc.stored_nodes import op_name

__all__ = ["PackOperands", "operand_of", "packed_meta", "unpacked"]


@dataclass(frozen=True, slots=True)
class PackOperands:
    """``precc.round`` becomes ``precc.pack`` and, before each product that reads it, ``precc.unpack``.

    Not of operands that one product alone rounds as it loads them, nor of those of convolutions. Codes have the
    contracted dimension last. Values of symbolic sizes stay as they are.
    """

    name: ClassVar[str] = "pack_operands"

    def run(self, graph: GraphModule, context: GraphContext) -> None:
        for own in rounded_values(graph.graph).values():
            alone = len(own.roundings) == 1 and len(own.roundings[0].users) == 1
            fixed = own.value.op == "placeholder" and own.value.name in context.constants
            if alone and not fixed and _is_loaded(own.value):
                continue
            for rounding in own.roundings:
                read = all(operand_of(rounding, user) is not None for user in rounding.users)
                if rounding.target is ROUND and read and _is_fixed(rounding):
                    _pack(graph.graph, rounding)


def _is_loaded(value: Node) -> bool:
    """Whether a value is in memory in any case: it comes in, or something else than roundings reads it."""
    return value.op == "placeholder" or isinstance(annotation_of(value), Product)


def operand_of(rounding: Node, user: Node) -> int | None:
    """Which operand of a matrix product a node is, 0 or 1; None if it is something else."""
    record = annotation_of(user)
    if op_name(user) not in MATRIX_PRODUCTS or not isinstance(record, Product):
        return None
    places = [n for n, own in enumerate(record.operands) if user.args[own.position] is rounding]
    return places[0] if len(places) == 1 and rounding.meta["val"].dim() >= 2 else None


def _is_fixed(node: Node) -> bool:
    return not any(isinstance(size, SymInt) for size in node.meta["val"].shape)


def _pack(graph: Graph, rounding: Node) -> None:
    """One packed tensor for each side of a product that reads it."""
    packed: dict[bool, Node] = {}
    for user in list(rounding.users):
        transposed = operand_of(rounding, user) == 1
        if transposed not in packed:
            with graph.inserting_before(rounding):
                arguments = (*rounding.args, transposed)
                packed[transposed] = graph.call_function(PACK, arguments)
            packed[transposed].meta = packed_meta(rounding)
        with graph.inserting_before(user):
            values = unpacked(graph, packed[transposed], rounding, transposed, rounding.meta["val"].shape)
        user.replace_input_with(rounding, values)
    graph.erase_node(rounding)


def unpacked(graph: Graph, packed: Node, rounding: Node, transposed: bool, sizes: Sequence[int | Node]) -> Node:
    """A node that gives what a rounding gave, of what was packed under the same row."""
    value, (_, plan, row) = rounding.meta["val"], rounding.args
    arguments: tuple[Any, ...] = (packed, plan, row, list(sizes), value.dtype, transposed)
    node = graph.call_function(UNPACK, arguments)
    node.meta = {key: entry for key, entry in rounding.meta.items() if key != "precc"}
    with value.fake_mode:
        node.meta["val"] = value.new_empty(value.shape)
    return node


def packed_meta(rounding: Node) -> dict[str, Any]:
    """Of the node that packs what a rounding rounds."""
    meta, value = dict(rounding.meta), rounding.meta["val"]
    assert isinstance(value, Tensor)
    with value.fake_mode:  # type: ignore[attr-defined]  # a fake tensor
        meta["val"] = torch.empty(value.numel(), dtype=torch.uint8, device=value.device)
    meta.pop("partitioner_tag", None)
    return meta
