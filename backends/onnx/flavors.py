"""The flavors of an exported file: what a rounding becomes, and how a rounded weight is stored."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Protocol

from torch import Tensor

from precc.backends.onnx.opsets import OPSETS
from precc.backends.onnx.roundings.portable import add_portable_rounding
from precc.backends.onnx.roundings.portable_problems import portable_problem
from precc.backends.onnx.roundings.qdq import add_qdq_rounding
from precc.backends.onnx.roundings.qdq_problems import qdq_opset, qdq_problem
from precc.backends.onnx.slot_rounding import SlotRounding
from precc.backends.onnx.weights.qdq_storage import qdq_storage_problem
from precc.backends.onnx.weights.qdq_weights import add_qdq_weight
from precc.backends.onnx.weights.stored_weights import StoredWeight, add_stored_weight, storage_problem
from precc.errors import BackendError, expected_one_of

__all__ = ["FLAVORS", "Annotate", "Flavor", "Portable", "Qdq", "parse_flavor"]


#: Of a graph that needs no more: the first with blocks and integers of 4 bits.
_LEAST_QDQ = 21

#: What reads a weight that is stored as this flavor says.
_READING = frozenset({"Cast", "DequantizeLinear"})


class Flavor(Protocol):
    """How roundings are written."""

    @property
    def name(self) -> str: ...

    @property
    def rounds(self) -> bool:
        """Whether the graph computes them; else it is plain, and they are metadata alone."""
        ...

    def opset(self, roundings: list[SlotRounding]) -> int:
        """The opset that it takes where none is asked for."""
        ...

    def problem(self, rounding: SlotRounding, opset: int) -> str:
        """Why it has no nodes for a rounding; empty if it has."""
        ...

    def weight_problem(self, weight: Tensor, rounding: SlotRounding, opset: int) -> str:
        """Why it cannot store a weight rounded so; empty if it can."""
        ...

    def round(self, tape: Any, value: Any, rounding: SlotRounding, opset: int) -> Any:
        """Add the nodes that round a value."""
        ...

    def store(self, tape: Any, weight: Tensor, rounding: SlotRounding, opset: int, name: str) -> StoredWeight:
        """Add a weight, rounded."""
        ...


class Portable:
    """Nodes of QONNX with bodies: stock onnxruntime, onnx.reference and QONNX's executor compute precc's bits."""

    name: ClassVar[str] = "portable"
    rounds: ClassVar[bool] = True

    def opset(self, roundings: list[SlotRounding]) -> int:
        return 26  # the first with BitCast, by which roundings are quicker

    def problem(self, rounding: SlotRounding, opset: int) -> str:
        return portable_problem(rounding, opset)

    def weight_problem(self, weight: Tensor, rounding: SlotRounding, opset: int) -> str:
        return storage_problem(rounding)

    def round(self, tape: Any, value: Any, rounding: SlotRounding, opset: int) -> Any:
        return add_portable_rounding(tape, value, rounding, opset)

    def store(self, tape: Any, weight: Tensor, rounding: SlotRounding, opset: int, name: str) -> StoredWeight:
        return add_stored_weight(tape, weight, rounding, opset, name)


class Qdq:
    """Cast, QuantizeLinear and DequantizeLinear, for TensorRT and others that know these."""

    name: ClassVar[str] = "qdq"
    rounds: ClassVar[bool] = True

    def opset(self, roundings: list[SlotRounding]) -> int:
        needed = [qdq_opset(own) for own in roundings if not qdq_problem(own, OPSETS[1])]
        return max(_LEAST_QDQ, *needed) if needed else _LEAST_QDQ

    def problem(self, rounding: SlotRounding, opset: int) -> str:
        return qdq_problem(rounding, opset)

    def weight_problem(self, weight: Tensor, rounding: SlotRounding, opset: int) -> str:
        return storage_problem(rounding) or qdq_storage_problem(weight, rounding, opset)

    def round(self, tape: Any, value: Any, rounding: SlotRounding, opset: int) -> Any:
        return add_qdq_rounding(tape, value, rounding, opset)

    def store(self, tape: Any, weight: Tensor, rounding: SlotRounding, opset: int, name: str) -> StoredWeight:
        before = len(tape.nodes)
        stored = add_qdq_weight(tape, weight, rounding, opset, name)
        others = {node.op_type for node in list(tape.nodes)[before:]} - _READING
        if others and weight.numel():
            raise BackendError(
                f"slot {rounding.slot!r}: no DequantizeLinear gives exactly its values in {rounding.precision}; take "
                "flavor='portable', or another format there"
            )
        return stored


class Annotate:
    """The plain float32 graph; formats are metadata."""

    name: ClassVar[str] = "annotate"
    rounds: ClassVar[bool] = False

    def opset(self, roundings: list[SlotRounding]) -> int:
        return 20

    def problem(self, rounding: SlotRounding, opset: int) -> str:
        return ""

    def weight_problem(self, weight: Tensor, rounding: SlotRounding, opset: int) -> str:
        return ""

    def round(self, tape: Any, value: Any, rounding: SlotRounding, opset: int) -> Any:
        return value

    def store(self, tape: Any, weight: Tensor, rounding: SlotRounding, opset: int, name: str) -> StoredWeight:
        raise AssertionError("a plain graph keeps its weights")


#: By name.
FLAVORS: Mapping[str, Flavor] = MappingProxyType({own.name: own for own in (Portable(), Qdq(), Annotate())})


def parse_flavor(flavor: str) -> Flavor:
    """The flavor of a name.

    Raises:
        BackendError: there is none; the message lists them.
    """
    if not isinstance(flavor, str) or flavor not in FLAVORS:
        raise BackendError(f"unknown flavor {flavor!r}: {expected_one_of(FLAVORS)}")
    return FLAVORS[flavor]
