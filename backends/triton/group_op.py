"""The node ``precc.triton_group(tensors, plan, group)``: what other compilers see of a group of operations."""

import itertools
from collections.abc import Sequence
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import SymInt, Tensor
from torch.fx import GraphModule, Node

from precc.annotations import annotation_of
from precc.backends.triton.live_rows import plan_of
from precc.backends.triton.running_group import RunningGroup
from precc.fusion_group import FusionGroup

__all__ = ["GROUP", "call_group", "group_record", "plan_read_by"]

_groups: "WeakValueDictionary[int, RunningGroup]" = WeakValueDictionary()
_numbers = itertools.count()


def _run(tensors: list[Tensor], sizes: list[int], plan: Tensor, group: int) -> list[Tensor]:
    own = _groups[group]
    return own(own.merged(tensors, sizes), plan)


def _fake(tensors: list[Tensor], sizes: list[SymInt], plan: Tensor, group: int) -> list[Tensor]:
    own = _groups[group]
    return list(own.group.module(*own.with_plan(own.merged(tensors, sizes), plan)))


def _defined() -> torch._ops.OpOverload:
    signature = "(Tensor[] tensors, SymInt[] sizes, Tensor plan, int group) -> Tensor[]"
    torch.library.define("precc::triton_group", signature, tags=[torch.Tag.pt2_compliant_tag])
    torch.library.impl("precc::triton_group", "CompositeExplicitAutograd", _run)
    torch.library.register_fake("precc::triton_group", _fake)
    overload: torch._ops.OpOverload = torch.ops.precc.triton_group.default
    return overload


#: The operator, as the target of an fx node. Groups are known by number as long as their graph is.
GROUP = _defined()


def group_record(node: Node) -> FusionGroup | None:
    """What a node computes, if it is a group."""
    record = annotation_of(node)
    return record if node.op == "call_module" and isinstance(record, FusionGroup) else None


def call_group(graph: GraphModule, node: Node, group: RunningGroup, plan: Node | None) -> None:
    """Put the operator in the place of a group's node.

    Args:
        graph: that the node is in.
        node: the ``call_module``.
        group: that it stands for.
        plan: the placeholder of the plan; None in a graph that reads none.
    """
    number = next(_numbers)
    _groups[number] = group
    values = [own for own in node.args if own is not plan]
    tensors = [own for own in values if _is_tensor(own)]
    sizes = [own for own in values if not _is_tensor(own)]
    with graph.graph.inserting_before(node):
        call = graph.graph.call_function(GROUP, (tensors, sizes, plan if plan is not None else tensors[0], number))
    call.meta = dict(node.meta)
    node.replace_all_uses_with(call)
    graph.graph.erase_node(node)


def plan_read_by(graph: GraphModule, node: Node) -> Node | None:
    """Which argument of a group's node is the plan; None if it reads none."""
    module = graph.get_submodule(str(node.target))
    assert isinstance(module, GraphModule)
    plans = set(map(plan_of, module.graph.nodes))
    pairs: Sequence[tuple[Any, Node]] = list(zip(node.args, module.graph.find_nodes(op="placeholder"), strict=True))
    return next((own for own, placeholder in pairs if placeholder in plans), None)


def _is_tensor(node: Any) -> bool:
    return isinstance(node, Node) and isinstance(node.meta.get("val"), Tensor)
