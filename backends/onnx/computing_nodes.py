"""Which node of the translated graph computes the product, or the sum, that a marked slot belongs to."""

import re
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from precc.errors import BackendError

__all__ = ["computing_node", "fx_name"]

_FX_NODE = "pkg.torch.onnx.fx_node"

#: ONNX ops that compute a product; an addition beside it, or a transpose, gets no annotation.
_PRODUCTS = frozenset({"Attention", "Conv", "ConvTranspose", "Gemm", "MatMul"})
_SUMS = frozenset({"Add"})


def fx_name(node: Any) -> str:
    """The name of the traced node that a translated one comes from; empty if it does not say."""
    name = re.match(r"%(\w+)", node.metadata_props.get(_FX_NODE, ""))
    return name[1] if name else ""


def computing_node(marker: Any, *, is_result: bool, is_sum: bool) -> Any:
    """The nearest node that computes a product, behind the marker of an operand, or before that of a result.

    Args:
        marker: the node.
        is_result: what it marks.
        is_sum: whether the result is that of a sum of two activations.

    Raises:
        BackendError: torch.onnx translated it to something else.
    """
    ops = _SUMS if is_sum else _PRODUCTS
    step = _before if is_result else _behind
    found = _nearest(step(marker), lambda node: node.op_type in ops, step)
    if found is None:
        slot = marker.attributes["slot"].as_string()
        raise BackendError(f"torch.onnx translated what slot {slot!r} belongs to to none of {', '.join(sorted(ops))}")
    return found


def _before(node: Any) -> list[Any]:
    return [own.producer() for own in node.inputs if own is not None and own.producer() is not None]


def _behind(node: Any) -> list[Any]:
    return [use.node for own in node.outputs for use in own.uses()]


def _nearest(starts: Iterable[Any], wanted: Callable[[Any], bool], step: Callable[[Any], list[Any]]) -> Any:
    waiting, seen = deque(starts), set[int]()
    while waiting:
        node = waiting.popleft()
        if wanted(node):
            return node
        if id(node) not in seen:
            seen.add(id(node))
            waiting.extend(step(node))
    return None
