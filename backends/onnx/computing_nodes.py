"""Which node of the translated graph computes what a node of the traced one does."""

import re
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


def computing_node(graph: Any, traced: str, *, is_sum: bool) -> Any:
    """The node that computes the product, or the sum of two activations, of a traced node.

    Raises:
        BackendError: torch.onnx translated it to something else.
    """
    ops = _SUMS if is_sum else _PRODUCTS
    found = next((node for node in graph if node.op_type in ops and fx_name(node) == traced), None)
    if found is None:
        raise BackendError(f"torch.onnx translated {traced!r} to none of {', '.join(sorted(ops))}")
    return found
