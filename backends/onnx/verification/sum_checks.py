"""Whether the sums of a product are those of its operands, in whatever order they were added."""

from typing import Any

import numpy as np

from precc.backends.onnx.verification.runtimes import Arrays, evaluated
from precc.backends.onnx.verification.slot_graphs import ModelParts, unscaled

__all__ = ["sum_problem"]


def sum_problem(parts: ModelParts, node: Any, operands: list[str], tapped: Arrays) -> str:
    """What is wrong with the output of a product; empty if it is within the bound of float sums.

    A sum of n products, in any order, each operation rounded to nearest, is off by at most ``n u / (1 - n u)`` times
    the sum of their magnitudes (Higham 2002, eq. 3.5); the exact sum is taken in float64.

    Args:
        parts: of the model.
        node: that computes the product (``onnx.NodeProto``).
        operands: names of its rounded operands.
        tapped: the values of these and of the node's inputs and output in one run of the model.
    """
    output = node.output[0]
    own = {name: tapped[name].astype(np.float64) for name in operands}
    added = {name: tapped[name].astype(np.float64) for name in node.input[2:3] if name}
    feeds = {**own, **added}
    exact = evaluated(parts.part(feeds, [output]), feeds)[output]
    positive = unscaled(parts.part(feeds, [output]), node, factor=abs)
    magnitude = evaluated(positive, {name: np.abs(value) for name, value in feeds.items()})[output]
    counting = unscaled(parts.part(feeds, [output]), node)
    terms = evaluated(counting, {name: np.ones_like(value) for name, value in feeds.items()})[output]
    terms = terms + 2 * (node.op_type == "Gemm")  # its factors
    relative = terms * np.finfo(tapped[output].dtype).eps / 2
    with np.errstate(all="ignore"):
        bound = relative / (1 - relative) * magnitude + np.finfo(tapped[output].dtype).tiny
        excess = np.abs(tapped[output] - exact) - bound
    if not (known := np.isfinite(exact)).any() or (worst := float(excess[known].max())) <= 0:
        return ""
    return f"a sum of the product {node.name!r} is off by {worst:.3g} more than any order of its terms explains"
