"""A product in a group as templates see it: its sizes and operands, the arithmetic, and how its sums are rounded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch.fx import Node

from precc.accumulation.accumulator import Accumulator
from precc.accumulation.two_passes import TwoPasses
from precc.annotations import Product, annotation_of
from precc.backends.triton.device import Device
from precc.backends.triton.low_precision import LowSize, low_pays
from precc.backends.triton.native import Arithmetic, ProductOptions
from precc.backends.triton.program import Group, LiveRow, Rows
from precc.backends.triton.templates.accumulate import Shape
from precc.backends.triton.templates.group_values import group_values
from precc.backends.triton.templates.product_inputs import InputReader, ProductInput
from precc.backends.triton.templates.product_sums import RoundedSums
from precc.errors import BackendError
from precc.fusible_ops import MATRIX_PRODUCTS
from precc.stored_nodes import op_name

__all__ = ["GivenProduct"]


@dataclass(frozen=True, slots=True, eq=False)
class GivenProduct:
    """A product for tensors of some sizes.

    Args:
        group: that it is in.
        values: of the group's nodes, without data.
        rows: of the plan.
        device: that it is for.
        node: the product.
        record: what it is.
        sizes: batches, rows and columns.
        terms: of each sum.
        kind: the arithmetic of its terms.
        sums: how they are rounded; None for the tensors' own arithmetic.
        promotion: terms of 8-bit products between additions to float32; 0: no sum of them is added to another.
        rounded: the sums of a kernel that rounds each; None where a tensor core sums.
        inputs: both operands.
    """

    group: Group
    values: Mapping[Node, Any]
    rows: Rows
    device: Device
    node: Node
    record: Product
    sizes: tuple[int, int, int]
    terms: int
    kind: Arithmetic
    sums: Accumulator | None
    promotion: int
    rounded: RoundedSums | None
    inputs: tuple[ProductInput, ProductInput]

    @classmethod
    def of(
        cls, group: Group, args: Sequence[Any], rows: Rows, device: Device, options: ProductOptions
    ) -> "GivenProduct":
        """The product of a group.

        Args:
            group: likewise.
            args: of its placeholders but the plan's.
            rows: of the plan.
            device: that it is for.
            options: of 8-bit products.

        Raises:
            BackendError: no kernel multiplies so; the message names the node or the format.
        """
        values = group_values(group.module, args)
        node = next(node for node in group.module.graph.nodes if op_name(node) in MATRIX_PRODUCTS)
        record = annotation_of(node)
        assert isinstance(record, Product)
        _check_factors(node)
        first, second = (values[node.args[own.position]] for own in record.operands)
        batches = first.shape[0] if first.dim() == 3 else 1
        sizes, terms = (batches, first.shape[-2], second.shape[-1]), first.shape[-1]
        sums = _accumulator(rows.get(record.accumulator_row))
        inputs = InputReader(node, record, values, rows, device, group.record.name, options.promotion, sums)
        free = inputs.kind is Arithmetic.FP8 and sums is None and not (options.force_low or device.interpreted)
        if free and not low_pays(LowSize(sizes[1], sizes[2], terms), "float8_e4m3fn", "float8_e4m3fn", device):
            inputs = inputs.without_fp8()
        rounded = None
        if sums is not None and inputs.promotion is None:
            rounded = RoundedSums(sums, values[node].dtype, Shape(batches, *sizes, terms))
        return cls(
            group,
            values,
            rows,
            device,
            node,
            record,
            sizes,
            terms,
            inputs.kind,
            sums,
            inputs.promotion or 0,
            rounded,
            (inputs.read(0), inputs.read(1)),
        )

    @property
    def bias(self) -> Any:
        """What is added to the sums; None if nothing is."""
        return self.node.args[0] if self.record.operands[0].position == 1 else None

    @property
    def is_empty(self) -> bool:
        """Whether it has no result."""
        return 0 in self.sizes

    @property
    def described(self) -> str:
        """Its arithmetic, for a comment."""
        return f"products in {self.kind.value if self.rounded is None else 'float64, each sum rounded'}"


def _check_factors(node: Node) -> None:
    if any(node.kwargs.values()) and node.kwargs not in ({"beta": 1, "alpha": 1},):
        raise BackendError(f"triton: {node.name} has factors {dict(node.kwargs)}")


def _accumulator(live: LiveRow | None) -> Accumulator | None:
    sums = None if live is None else live.sums
    if isinstance(sums, TwoPasses):
        raise BackendError(f"triton: sums in {sums} are those of a kernel of their own")
    return sums
