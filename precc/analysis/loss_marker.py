"""Marks the loss among what a captured step computes, which may keep other values as well, in attributes or lists.

What ``loss(output)`` returns goes through ``precc::loss``; where that is no tensor, ``precc::no_loss`` says why.
Both are in the graph of Dynamo alone.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from precc.errors import AnalysisError

__all__ = ["marked", "only_loss", "refused"]


def marked(found: Any) -> Tensor:
    """What a loss function returned, for `only_loss` to find."""
    result: Tensor = _LOSS(found) if isinstance(found, Tensor) else refused(_said_of(found))
    return result


def refused(message: str) -> Tensor:
    """In the place of a loss: why there is none."""
    result: Tensor = _NO_LOSS(message)
    return result


def only_loss(graph: GraphModule) -> None:
    """Leave the loss as the graph's one output: what else it returns would be written to attributes, lists and such.

    Raises:
        AnalysisError: there is none.
    """
    others = graph.graph.find_nodes(op="call_function", target=_NO_LOSS)
    if others:
        raise AnalysisError(str(others[0].args[0]))
    (node,) = graph.graph.find_nodes(op="call_function", target=_LOSS)
    graph.graph.output_node().args = ((node.args[0],),)
    graph.graph.erase_node(node)
    graph.recompile()


#: By type of what a loss function returned.
_REFUSED = (
    (type(None), "the loss function returned nothing: return the loss"),
    (Sequence, "the loss is one real number, not a list or tuple: return one of its values"),
    (Mapping, "the loss is one real number, not a dictionary: return one of its values"),
    ((int, float), "the loss is a number that is no tensor: return the tensor, without .item() or float()"),
    (object, "the loss is one real number, and the loss function returned something else: return a tensor"),
)


def _said_of(found: Any) -> str:
    return next(message for kind, message in _REFUSED if isinstance(found, kind))


def _define(name: str, signature: str) -> torch._ops.OpOverload:
    torch.library.define(f"precc::{name}", f"({signature}) -> Tensor", tags=[torch.Tag.pt2_compliant_tag])
    overload: torch._ops.OpOverload = getattr(torch.ops.precc, name).default
    return overload


_LOSS, _NO_LOSS = _define("loss", "Tensor x"), _define("no_loss", "str why")
torch.library.register_fake("precc::loss", torch.empty_like)
torch.library.impl("precc::loss", "default", torch.clone)  # constants are computed while they are traced
torch.library.register_fake("precc::no_loss", lambda why: torch.empty(()))
