"""Weights of an exported net, rounded, in the narrowest ONNX types that give them back bit for bit."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from precc.backends.onnx.roundings.format_types import storages_of
from precc.backends.onnx.roundings.node_writer import NodeWriter
from precc.backends.onnx.slot_rounding import SlotRounding
from precc.backends.onnx.weights.scaled_weight import ScaledWeight
from precc.backends.onnx.weights.storage import Floats, Storage
from precc.backends.onnx.weights.stored_values import smallest
from precc.rounding import quantize

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = [
    "StoredWeight",
    "add_stored_weight",
    "rounded_weight",
    "storage_problem",
]


@dataclass(frozen=True, slots=True)
class StoredWeight:
    """A weight in the file.

    Args:
        value: what is read: float32.
        type: the ONNX type of the codes.
    """

    value: "ir.Value"
    type: str


def storage_problem(rounding: SlotRounding) -> str:
    """Why a weight of this slot cannot be rounded when it is exported; empty if it can."""
    if rounding.precision.is_stochastic:
        drawn = str(rounding.precision.rounding)
        return f"a {drawn!r} rounding draws at run time, and a stored weight is rounded once"
    return rounding.problem


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
    plain = smallest(rounded, _plain_storages(rounding, opset))
    scaled = ScaledWeight.of(weight, rounded, rounding, opset)
    if scaled is None or scaled.size >= plain.size:
        name = "rounded" if plain.storage.type == "FLOAT" else "codes"
        value, type = plain.add(n, name), plain.storage.type
    else:
        value, type = scaled.add(n), scaled.elements.storage.type
    return StoredWeight(value, type)


def rounded_weight(weight: Tensor, rounding: SlotRounding) -> Tensor:
    """The float32 values that the product sees.

    Raises:
        BackendError: a rounding that is none of export time, or float64 values that float32 lacks.
    """
    if problem := storage_problem(rounding):
        raise rounding.refused(problem)
    rounded = quantize(weight.detach().cpu(), rounding.row)
    kept = rounded.float()
    if not bool(((rounded == kept) | rounded.isnan()).all()):
        raise rounding.refused(f"the {weight.dtype} weight has values that float32 lacks: export a float32 net")
    return kept.contiguous()


def _plain_storages(rounding: SlotRounding, opset: int) -> Iterable[Storage]:
    if rounding.row.granularity is None:
        return storages_of(rounding.precision.element, opset)
    return [Floats("FLOAT16"), Floats("BFLOAT16"), Floats("FLOAT")]
