"""Text of operations along the last dimension of a block with whole rows: sums, norms, softmax and their backwards.

A sum is that of `tl.sum`, a tree over the row: with n values, its error is at most ``ceil(log2 n) u`` times the sum of
the magnitudes where the tree has that depth, and it is exact where all partial sums are. ATen sums in another order.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch.fx import Node

from precc.backends.triton.emit.device_functions import literal
from precc.errors import BackendError
from precc.stored_nodes import op_name

__all__ = ["REDUCTIONS", "RowOp", "row_op"]

#: Those that are written here, by name of the operator.
REDUCTIONS = frozenset(
    f"aten.{name}"
    for name in "_softmax _softmax_backward_data amax mean native_layer_norm native_layer_norm_backward sum".split()
)


@dataclass(frozen=True, slots=True)
class RowOp:
    """Lines, and the names of what they give.

    Args:
        lines: of the kernel.
        results: one name, or one for each of the operator's results.
        sums: for each result, whether it is of one value a row of the tile and is still to be summed over rows.
    """

    lines: tuple[str, ...]
    results: tuple[str, ...]
    sums: tuple[bool, ...] = (False,)


def row_op(node: Node, name: str, texts: Mapping[Node, str], carrier: str) -> RowOp:
    """The text of an operator along rows.

    Args:
        node: of a graph; its operator is one of `REDUCTIONS`.
        name: prefix of the names that it makes.
        texts: the name of the block for each node that it reads.
        carrier: ``tl.float32`` or ``tl.float64``, in which the blocks are.

    Raises:
        BackendError: arguments that no text has.
    """
    own = _Text(node, name, texts, carrier == "tl.float64")
    written = {
        "aten.sum": own.sum,
        "aten.mean": own.mean,
        "aten.amax": own.amax,
        "aten._softmax": own.softmax,
        "aten._softmax_backward_data": own.softmax_backward,
        "aten.native_layer_norm": own.layer_norm,
        "aten.native_layer_norm_backward": own.layer_norm_backward,
    }
    return written[op_name(node)]()


@dataclass(frozen=True, slots=True)
class _Text:
    node: Node
    name: str
    texts: Mapping[Node, str]
    double: bool

    def at(self, place: int) -> str:
        return self.texts[self._node(place)]

    def _node(self, place: int) -> Node:
        own = self.node.args[place]
        if not isinstance(own, Node):
            raise BackendError(f"triton: {self.node.name} has the argument {own!r} where a kernel needs a tensor")
        return own

    def divided(self, x: str, y: str) -> str:
        return f"({x}) / {y}" if self.double else f"tl.div_rn({x}, {y})"

    def averaged(self, x: str) -> str:
        """The mean of a row: its sum divided by its length, which is ``columns``."""
        number = f"tl.cast(columns, {'tl.float64' if self.double else 'tl.float32'})"
        return self.divided(_summed(x), number)

    def sum(self) -> RowOp:
        return RowOp((f"{self.name} = {_summed(self.at(0))}",), (self.name,))

    def mean(self) -> RowOp:
        return RowOp((f"{self.name} = {self.averaged(self.at(0))}",), (self.name,))

    def amax(self) -> RowOp:
        x = self.at(0)
        return RowOp((*_largest(self.name, x),), (self.name,))

    def softmax(self) -> RowOp:
        x, name = self.at(0), self.name
        lines = (
            "# e**(x - max x) / sum of them",
            *_largest(f"{name}_max", x),
            f"{name}_exp = tl.exp({x} - {name}_max)",
            f"{name} = {self.divided(f'{name}_exp', _summed(f'{name}_exp'))}",
        )
        return RowOp(lines, (name,))

    def softmax_backward(self) -> RowOp:
        gradient, y, name = self.at(0), self.at(1), self.name
        lines = (
            "# (dy - sum of y dy) y",
            f"{name} = ({gradient} - {_summed(f'{y} * {gradient}')}) * {y}",
        )
        return RowOp(lines, (name,))

    def layer_norm(self) -> RowOp:
        x, name, root = self.at(0), self.name, "tl.sqrt" if self.double else "tl.sqrt_rn"
        eps: Any = self.node.args[4]
        weight, bias = (self.at(n) if self.node.args[n] is not None else "" for n in (2, 3))
        normal = f"{name}_off * {name}_rstd{f' * {weight}' if weight else ''}{f' + {bias}' if bias else ''}"
        one = "1.0"
        lines = (
            "# (x - mean) / sqrt(variance + eps) * weight + bias",
            f"{name}_mean = {self.averaged(x)}",
            f"{name}_off = {x} - {name}_mean",
            f"{name}_variance = {self.averaged(f'{name}_off * {name}_off')}",
            f"{name}_rstd = {self.divided(one, f'{root}({name}_variance + {literal(float(eps))})')}",
            f"{name} = {normal}",
        )
        return RowOp(lines, (name, f"{name}_mean", f"{name}_rstd"), (False,) * 3)

    def layer_norm_backward(self) -> RowOp:
        gradient, x, mean, rstd, name = self.at(0), self.at(1), self.at(3), self.at(4), self.name
        weight = self.at(5) if self.node.args[5] is not None else ""
        lines = (
            "# with n = (x - mean) rstd and g = dy weight: dx = rstd (g - mean of g - n mean of g n)",
            f"{name}_normal = ({x} - {mean}) * {rstd}",
            f"{name}_gradient = {gradient}{f' * {weight}' if weight else ''}",
            f"{name}_first = {self.averaged(f'{name}_gradient')}",
            f"{name}_second = {self.averaged(f'{name}_gradient * {name}_normal')}",
            f"{name} = ({name}_gradient - {name}_first - {name}_normal * {name}_second) * {rstd}",
            f"{name}_weight = {gradient} * {name}_normal  # of the rows here: summed over all behind the kernel",
        )
        return RowOp(lines, (name, f"{name}_weight", gradient), (False, True, True))


def _summed(x: str) -> str:
    return f"tl.sum(tl.where(inside, {x}, 0.0), 1, keep_dims=True)"


def _largest(name: str, x: str) -> Sequence[str]:
    """The largest of each row, NaN if one is NaN."""
    low = literal(-math.inf)
    return (
        f"{name}_nan = tl.max((inside & ({x} != {x})).to(tl.int32), 1, keep_dims=True)",
        f"{name} = tl.max(tl.where(inside & ({x} == {x}), {x}, {low}), 1, keep_dims=True)",
        f'{name} = tl.where({name}_nan != 0, float("nan"), {name})',
    )
