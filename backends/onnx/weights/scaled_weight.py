"""A weight that lies in a file as quotients and the scales of their blocks."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from precc.backends.onnx.roundings.format_types import storages_of
from precc.backends.onnx.roundings.node_writer import NodeWriter
from precc.backends.onnx.slot_rounding import SlotRounding
from precc.backends.onnx.weights.same_bits import same_bits
from precc.backends.onnx.weights.scaled_values import ScaledValues
from precc.backends.onnx.weights.storage import Floats
from precc.backends.onnx.weights.stored_values import Stored, smallest

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["ScaledWeight"]


@dataclass(frozen=True, slots=True)
class ScaledWeight:
    """Quotients and scales as they lie in a file."""

    elements: Stored
    scales: Stored
    tensor_scale: Tensor
    extent: tuple[int, ...]

    @classmethod
    def of(cls, weight: Tensor, rounded: Tensor, rounding: SlotRounding, opset: int) -> "ScaledWeight | None":
        """None where there is no scaling, or float32 does not hold its parts."""
        row = rounding.row
        if row.granularity is None or not weight.numel():
            return None
        found = ScaledValues.of(weight.detach().cpu(), row)
        if not same_bits(found.values, rounded):
            return None
        scaling = rounding.precision.own_scaling
        elements = smallest(found.elements, storages_of(rounding.precision.element, opset))
        if scaling is None or not row.finds_scales:
            scales = smallest(found.scales, [Floats("FLOAT")])
        else:
            scales = smallest(found.scales, storages_of(scaling.scale_format, opset))
        return cls(elements, scales, found.tensor_scale, found.extent)

    @property
    def size(self) -> int:
        """In bytes."""
        return self.elements.size + self.scales.size

    def add(self, n: NodeWriter) -> "ir.Value":
        """The constants, and the nodes that multiply them."""
        return n.op("Mul", self.elements.add(n, "codes"), self._add_scales(n), shape=self.elements.codes.shape)

    def _add_scales(self, n: NodeWriter) -> "ir.Value":
        """Broadcastable to the elements: those of blocks are repeated, and cut where the last block is shorter."""
        blocks, shape = self.scales.codes.shape, self.elements.codes.shape
        repeats = [size if count > 1 else 1 for count, size in zip(blocks, self.extent, strict=False)]
        if max(repeats, default=1) == 1:
            return self._levels(n, self.scales)
        apart = [part for count in blocks for part in (count, 1)]
        side_by_side = [part for pair in zip(blocks, repeats, strict=True) for part in pair]
        whole = [count * repeat for count, repeat in zip(blocks, repeats, strict=True)]
        scales = self._levels(n, self.scales.shaped(*apart))
        scales = n.op("Expand", scales, n.integers(*side_by_side), shape=side_by_side)
        scales = n.op("Reshape", scales, n.integers(*whole), shape=whole)
        ends = [size if count > 1 else 1 for count, size in zip(blocks, shape, strict=True)]
        if ends == whole:
            return scales
        return n.op("Slice", scales, n.integers(*[0] * len(ends)), n.integers(*ends), shape=ends)

    def _levels(self, n: NodeWriter, scales: Stored) -> "ir.Value":
        value = scales.add(n, "scales")
        return value if self.tensor_scale == 1 else n.op("Mul", value, n.constant(self.tensor_scale.numpy()))
