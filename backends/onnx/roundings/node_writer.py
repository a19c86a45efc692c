"""Writing ONNX nodes: each new value with its shape and type."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from precc.extras import imported

if TYPE_CHECKING:
    import onnx_ir as ir
    from onnx_ir.tape import Tape

__all__ = ["QUANT_DOMAIN", "NodeWriter", "dims_of"]

#: Of `FloatQuant` and `IntQuant`, as QONNX knows them.
QUANT_DOMAIN = "qonnx.custom_op.general"


@dataclass(frozen=True, slots=True)
class NodeWriter:
    """Writes to a tape what one opset has.

    Args:
        tape: collects nodes and initializers.
        opset: of the default domain.
        name: what the names of constants begin with; empty in the body of a function, which has no initializers.
    """

    tape: "Tape"
    opset: int
    name: str = ""

    def op(
        self,
        op_type: str,
        *inputs: "ir.Value",
        dtype: str = "",
        shape: "Iterable[Any] | None" = None,
        domain: str = "",
        **attributes: Any,
    ) -> "ir.Value":
        """The result of a node.

        Args:
            op_type: of the node.
            inputs: of the node.
            dtype: of the result; default: that of the first input.
            shape: of the result; default: to which the inputs broadcast.
            domain: of the op.
            attributes: of the node.
        """
        ir = imported("onnx_ir", "onnx")
        value = self.tape.op(op_type, inputs, attributes, domain=domain)
        value.type = ir.TensorType(ir.DataType[dtype]) if dtype else inputs[0].type
        dims = _broadcast(inputs) if shape is None else shape
        value.shape = None if dims is None else ir.Shape(dims)
        return value

    def cast(self, value: "ir.Value", type: str, **attributes: Any) -> "ir.Value":
        """The values in another ONNX type."""
        return self.op("Cast", value, dtype=type, to=_number_of(type), **attributes)

    def bit_cast(self, value: "ir.Value", type: str) -> "ir.Value":
        """The bits as those of another ONNX type, as wide."""
        return self.op("BitCast", value, dtype=type, to=_number_of(type))

    def number(self, value: float) -> "ir.Value":
        """A float32 number, of no dimensions."""
        return self.constant(np.array(value, dtype=np.float32))

    def constant(self, array: "NDArray[Any]") -> "ir.Value":
        """A constant tensor."""
        ir = imported("onnx_ir", "onnx")
        if not self.name:
            tensor = ir.tensor(array)
            return self.op("Constant", dtype=tensor.dtype.name, shape=array.shape, value=tensor)
        name = f"{self.name}/constant_{len(self.tape.initializers)}"
        return self.tape.initializer(ir.tensor(array, name=name))

    def integers(self, *values: int) -> "ir.Value":
        """A vector of int64: axes, lengths."""
        return self.constant(np.array(values, dtype=np.int64))


def dims_of(value: "ir.Value") -> list[Any]:
    """The dimensions of a value of a known rank."""
    assert value.shape is not None
    return list(value.shape)


def _number_of(type: str) -> int:
    return int(imported("onnx_ir", "onnx").DataType[type])


def _broadcast(inputs: "Sequence[ir.Value]") -> list[Any] | None:
    """The dimensions to which tensors broadcast; None where those of one are not known."""
    shapes = [value.shape for value in inputs]
    if not shapes or any(shape is None for shape in shapes):
        return None
    rank = max(len(shape) for shape in shapes if shape is not None)
    dims: list[Any] = [1] * rank
    for shape in shapes:
        for place, dim in enumerate(reversed(list(shape or ())), 1):
            dims[-place] = dim if dims[-place] == 1 else dims[-place]
    return dims
