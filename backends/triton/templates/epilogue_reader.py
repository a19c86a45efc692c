"""Reads the nodes behind a product into the text of an epilogue."""

from collections.abc import Mapping
from typing import Any

from torch.fx import Node

from precc.backends.triton.emit.pointwise import pointwise_text
from precc.backends.triton.program import Rows
from precc.backends.triton.templates.epilogue_lines import EpilogueLines
from precc.backends.triton.templates.epilogue_roundings import EpilogueRoundings
from precc.fusible_ops import VIEW_OPS
from precc.packing import PACK
from precc.round_op import ROUND
from precc.stored_nodes import op_name

__all__ = ["EpilogueReader"]


class EpilogueReader:
    """Reads nodes, one after the other, into text.

    Args:
        values: of the group's nodes, without data.
        sizes: batches, rows and columns of the product.
        rows: of the plan.
        carrier: in which the sums are.
    """

    def __init__(self, values: Mapping[Node, Any], sizes: tuple[int, int, int], rows: Rows, carrier: str) -> None:
        self.text = EpilogueLines(values, sizes, carrier)
        self.roundings = EpilogueRoundings(self.text, rows)

    def begin(self, node: Node, bias: Node | None) -> None:
        """The product's own node, from the sums."""
        self.text.places.product = node
        text = "sums" if bias is None else f"sums + {self.text.load(bias)}"
        self.text.name(node, text)

    def read(self, node: Node) -> None:
        """A node that is computed of those read before, and of placeholders.

        Raises:
            BackendError: no kernel computes it at its place.
        """
        if op_name(node) in VIEW_OPS:
            source = node.args[0]
            assert isinstance(source, Node)
            self.text.names[node] = self.text.names[source]
            self.text.places.view(node, source)
        elif node.target is ROUND:
            self.roundings.round(node)
        elif node.target is PACK:
            self.roundings.pack(node)
        else:
            self.text.places.computed(node)
            for own in node.all_input_nodes:
                if own not in self.text.names:
                    self.text.load(own)
                if own in self.text.loaded:
                    self.text.places.check(node, own)
            made = pointwise_text(node, self.text.names, self.text.carrier)
            self.text.functions.append(made.functions)
            self.text.name(node, made.expression)
