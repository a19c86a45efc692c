"""Where NaN and infinities of a step arise first."""

import math
import operator
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from precc.analysis.node_values import listed
from precc.analysis.slot_sites import is_view
from precc.analysis.step_runs import StepRunner, Values, unrounded
from precc.analysis.traced_step import TracedStep
from precc.round_op import ROUND
from precc.source_places import place_of
from precc.stored_nodes import op_name

__all__ = ["described", "first_nonfinite", "tensors_in"]

#: What stands before the path of a module in the net.
_ROOT = re.compile(r"^L\['\w+'\]\.?")


def first_nonfinite(step: TracedStep) -> Node | None:
    """The node at which a value first is not finite, found in a run of the step; None where all are.

    That is where it has a NaN and its arguments have none, or an infinity and its arguments are finite, unless the node
    says so itself, such as ``full(-inf)`` for a mask.
    """
    search = _Search()
    with torch.no_grad():
        StepRunner(step).run(unrounded, watch=search.watch)
    return search.found


@dataclass(eq=False)
class _Search:
    found: Node | None = None
    _states: dict[Node, int] = field(default_factory=dict)

    def watch(self, node: Node, value: Any, values: Values) -> None:
        if self.found is not None:
            return
        before = max((self._states.get(argument, 0) for argument in node.all_input_nodes), default=0)
        if _only_shows(node):
            self._states[node] = before
            return
        self._states[node] = max((_state(own) for own in tensors_in(value)), default=0)
        if self._states[node] > before and node.op == "call_function" and not _says_nonfinite(node):
            self.found = node


def _only_shows(node: Node) -> bool:
    """Whether a node's values are those of its first argument."""
    return is_view(node) or node.target in (ROUND, operator.getitem)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors of floats that a node computed."""
    for own in listed(value):
        if isinstance(own, Tensor) and own.is_floating_point():
            yield own


def _state(value: Tensor) -> int:
    """0: all finite; 1: infinities; 2: a NaN."""
    if math.isfinite(float(value.sum())):  # of finite values it can overflow; of others it is never finite
        return 0
    if bool(value.isnan().any()):
        return 2
    return 0 if bool(value.isfinite().all()) else 1


def _says_nonfinite(node: Node) -> bool:
    numbers = [own for own in (*node.args, *node.kwargs.values()) if isinstance(own, float)]
    return not all(map(math.isfinite, numbers))


def described(node: Node) -> str:
    """Which node it is, in words: the module, the op, and the user's line.

    >>> described(torch.fx.Graph().placeholder("x"))
    'x (placeholder, in the net itself)'
    """
    stack = node.meta.get("nn_module_stack") or node.meta.get("fwd_nn_module_stack") or {}
    layer = _ROOT.sub("", str(list(stack.values())[-1][0])) if stack else ""
    where = layer or "the net itself"
    if node.op != "call_function":
        return f"{node.name} ({node.op}, in {where})"
    place = place_of(node, layer)
    line = f", {place}: {place.code}" if place.file else ""
    return f"{op_name(node) or node.name} of {where}{line}"
