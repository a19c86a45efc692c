"""Weights of an exported net, rounded, in the narrowest ONNX types that give them back bit for bit."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from precc.backends.onnx.format_types import storages_of
from precc.backends.onnx.node_writer import NodeWriter
from precc.backends.onnx.scaled_values import ScaledValues
from precc.backends.onnx.slot_rounding import SlotRounding
from precc.backends.onnx.storage import Floats, Storage, Stored, same_bits, smallest
from precc.errors import BackendError
from precc.formats import BlockFormat, ElementFormat, Granularity, Scaling
from precc.precision import Precision
from precc.rounding import quantize

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = [
    "StoredWeight",
    "add_stored_weight",
    "constant_bytes",
    "element_of",
    "rounded_weight",
    "scaling_of",
    "storage_problem",
]


@dataclass(frozen=True, slots=True)
class StoredWeight:
    """A weight in the file.

    Args:
        value: what is read: float32.
        type: the ONNX type of the codes.
        bytes: of all constants that reading it takes: codes, tables, scales, shapes.
    """

    value: "ir.Value"
    type: str
    bytes: int


def storage_problem(rounding: SlotRounding) -> str:
    """Why a weight of this slot cannot be rounded when it is exported; empty if it can."""
    precision = rounding.precision
    if precision.transform is not None:
        return f"the transform {precision.transform.value!r} is of run time, and a stored weight is rounded as it is"
    if precision.is_stochastic:
        return f"a {str(precision.rounding)!r} rounding draws at run time, and a stored weight is rounded once"
    if rounding.row.lacks_history:
        return "its scale comes from a history that has no record yet: run the net once, or give the scale"
    return ""


def add_stored_weight(
    tape: "ir.tape.Tape", weight: Tensor, rounding: SlotRounding, opset: int, name: str
) -> StoredWeight:
    """Store a weight rounded, in the smallest way that gives back precc's rounding bit for bit.

    Codes of the format in the narrowest type that the opset has and onnxruntime runs, beside their scales; where no
    such type has every value, in FLOAT16, BFLOAT16 or FLOAT, which are also smaller than codes with a table for a
    weight of few values.

    Args:
        tape: what collects nodes and constants.
        weight: as the product reads it.
        rounding: of its slot.
        opset: of the default domain, at least 13.
        name: what the names of constants begin with.

    Raises:
        BackendError: this is not rounded at export, or the values are not those of float32.
    """
    rounded = rounded_weight(weight, rounding)
    n = NodeWriter(tape, opset, name)
    before = len(tape.initializers)
    plain = smallest(rounded, _plain_storages(rounding, opset))
    scaled = _scaled(weight, rounded, rounding, opset)
    if scaled is None or scaled.size >= plain.size:
        name = "rounded" if plain.storage.type == "FLOAT" else "codes"
        value, type = plain.add(n, name), plain.storage.type
    else:
        value, type = scaled.add(n), scaled.elements.storage.type
    return StoredWeight(value, type, constant_bytes(tape.initializers[before:]))


def rounded_weight(weight: Tensor, rounding: SlotRounding) -> Tensor:
    """The float32 values that the product sees.

    Raises:
        BackendError: a rounding that is none of export time, or float64 values that float32 lacks.
    """
    if problem := storage_problem(rounding):
        raise BackendError(f"slot {rounding.slot!r}: {problem}")
    rounded = quantize(weight.detach().cpu(), rounding.row)
    kept = rounded.float()
    if not bool(((rounded == kept) | rounded.isnan()).all()):
        raise BackendError(
            f"slot {rounding.slot!r}: the {weight.dtype} weight has values that float32 lacks: export a float32 net"
        )
    return kept.contiguous()


def element_of(precision: Precision) -> ElementFormat:
    """The format of single values."""
    return precision.format.element if isinstance(precision.format, BlockFormat) else precision.format


def scaling_of(precision: Precision) -> Scaling | None:
    """The scaling that is the precision's or its format's."""
    return precision.format.scaling if isinstance(precision.format, BlockFormat) else precision.scaling


def constant_bytes(constants: "Sequence[ir.Value]") -> int:
    """What initializers take in a file."""
    tensors = (value.const_value for value in constants)
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)


def _plain_storages(rounding: SlotRounding, opset: int) -> Iterable[Storage]:
    if rounding.row.granularity is None:
        return storages_of(element_of(rounding.precision), opset)
    return [Floats("FLOAT16"), Floats("BFLOAT16"), Floats("FLOAT")]


@dataclass(frozen=True, slots=True)
class _Scaled:
    """Quotients and scales as they lie in a file."""

    elements: Stored
    scales: Stored
    tensor_scale: Tensor
    extent: tuple[int, ...]

    @property
    def size(self) -> int:
        return self.elements.size + self.scales.size

    def add(self, n: NodeWriter) -> "ir.Value":
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


def _scaled(weight: Tensor, rounded: Tensor, rounding: SlotRounding, opset: int) -> _Scaled | None:
    """None where there is no scaling, or float32 does not hold its parts."""
    row = rounding.row
    if row.granularity is None or not weight.numel():
        return None
    found = ScaledValues.of(weight.detach().cpu(), row)
    if not same_bits(found.values, rounded):
        return None
    scaling = scaling_of(rounding.precision)
    elements = smallest(found.elements, storages_of(element_of(rounding.precision), opset))
    if scaling is None or scaling.granularity is Granularity.STATIC:
        scales = smallest(found.scales, [Floats("FLOAT")])
    else:
        scales = smallest(found.scales, storages_of(scaling.scale_format, opset))
    return _Scaled(elements, scales, found.tensor_scale, found.extent)
