"""What the nodes of a group are for arguments like some: shapes, strides and dtypes, without data."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from precc.backends.triton.live_rows import plan_of
from precc.rounding import ROW_WIDTH

__all__ = ["group_values", "outputs_of", "placeholders_of"]


class _Recorder(Interpreter):
    def __init__(self, module: GraphModule) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.values: dict[Node, Any] = {}

    def run_node(self, node: Node) -> Any:
        self.values[node] = value = super().run_node(node)
        return value


def placeholders_of(module: GraphModule) -> list[Node]:
    """Those of a group but the plan's, in order."""
    plans = set(map(plan_of, module.graph.nodes))
    return [node for node in module.graph.find_nodes(op="placeholder") if node not in plans]


def outputs_of(module: GraphModule) -> tuple[Node, ...]:
    """The nodes whose values a group gives."""
    found: Any = module.graph.output_node().args[0]
    return tuple(found)


def group_values(module: GraphModule, args: Sequence[Any]) -> dict[Node, Any]:
    """The values of all nodes, as tensors of the device ``meta`` and numbers.

    Args:
        module: of the group.
        args: of its placeholders but the plan's; of tensors only sizes are looked at.
    """
    plan = torch.empty(1, ROW_WIDTH, dtype=torch.float64, device="meta")
    given = dict(zip(placeholders_of(module), map(_without_data, args), strict=True))
    recorder = _Recorder(module)
    recorder.run(*(given.get(node, plan) for node in module.graph.find_nodes(op="placeholder")))
    return recorder.values


def _without_data(value: Any) -> Any:
    if not isinstance(value, Tensor) or value.device.type == "meta":
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
