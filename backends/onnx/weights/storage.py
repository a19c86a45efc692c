"""Ways to store float32 values in an ONNX type: how they are written there, and by which nodes they are read."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from precc.backends.onnx.roundings.node_writer import NodeWriter
from precc.backends.onnx.roundings.onnx_types import TORCH_TYPES, first_opset, width
from precc.backends.onnx.weights.code_table import CodeTable
from precc.backends.onnx.weights.same_bits import bit_keys

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Codes", "Floats", "Integers", "Storage"]


@dataclass(frozen=True, slots=True)
class Storage(ABC):
    """A way to store float32 values as codes of an ONNX type."""

    type: str

    @property
    def opset(self) -> int:
        """The first that can read it."""
        return first_opset(self.type)

    def size(self, count: int) -> int:
        """The bytes that so many values take in a file."""
        return -(-count * width(self.type) // 8)

    @abstractmethod
    def encode(self, values: Tensor) -> NDArray[Any]:
        """The codes, each in a word of its own; values that have none get some other."""

    @abstractmethod
    def decode(self, codes: NDArray[Any]) -> Tensor:
        """What the nodes of `read` make of codes."""

    @abstractmethod
    def read(self, n: NodeWriter, codes: "ir.Value") -> "ir.Value":
        """The nodes that turn codes into float32 values."""


@dataclass(frozen=True, slots=True)
class Floats(Storage):
    """FLOAT, FLOAT16 or BFLOAT16.

    >>> Floats("BFLOAT16").size(10)
    20
    """

    def encode(self, values: Tensor) -> NDArray[Any]:
        """Values rounded to the type."""
        codes = values.to(TORCH_TYPES[self.type]).contiguous()
        array: NDArray[Any] = (codes.view(torch.uint16) if self.type == "BFLOAT16" else codes).numpy()
        return array

    def decode(self, codes: NDArray[Any]) -> Tensor:
        """The values."""
        return torch.from_numpy(codes).view(TORCH_TYPES[self.type]).to(torch.float32)

    def read(self, n: NodeWriter, codes: "ir.Value") -> "ir.Value":
        """A Cast, if any."""
        return codes if self.type == "FLOAT" else n.cast(codes, "FLOAT")


@dataclass(frozen=True, slots=True)
class Integers(Storage):
    """Multiples of a step."""

    step: float = 1.0

    def encode(self, values: Tensor) -> NDArray[Any]:
        """How many steps."""
        bits = width(self.type)
        low = -(2 ** (bits - 1)) if self.type.startswith("I") else 0
        kept = (values / self.step).nan_to_num().clamp(low, low + 2**bits - 1)
        array: NDArray[Any] = kept.numpy().astype(f"{'int' if low else 'uint'}{max(bits, 8)}")
        return array

    def decode(self, codes: NDArray[Any]) -> Tensor:
        """Integers times the step."""
        return torch.from_numpy(codes.astype(np.float32)) * self.step

    def read(self, n: NodeWriter, codes: "ir.Value") -> "ir.Value":
        """A Cast, and a multiplication."""
        integers = n.cast(codes, "FLOAT")
        return integers if self.step == 1.0 else n.op("Mul", integers, n.number(self.step))


@dataclass(frozen=True, slots=True)
class Codes(Storage):
    """The codes of a format of at most 16 bits, with the value of each; integers have them in a table beside.

    >>> Codes("UINT4", (0.0, 1.0, 1.5)).size(10)
    17
    """

    values: tuple[float, ...]

    def size(self, count: int) -> int:
        """With the table."""
        return -(-count * width(self.type) // 8) + (4 * len(self.values) if self._has_table else 0)

    def encode(self, values: Tensor) -> NDArray[Any]:
        """The smallest code of each value."""
        table = CodeTable.of(self.values)
        found = torch.bucketize(bit_keys(values), table.keys, out_int32=True).clamp_(max=len(table.keys) - 1)
        word = np.uint16 if width(self.type) > 8 else np.uint8
        array: NDArray[Any] = table.codes[found].numpy().astype(word)
        return array

    def decode(self, codes: NDArray[Any]) -> Tensor:
        """The values of codes."""
        return CodeTable.of(self.values).values[torch.from_numpy(codes.astype(np.int32))]

    def read(self, n: NodeWriter, codes: "ir.Value") -> "ir.Value":
        """A Cast; of integers, to what Gather takes."""
        if not self._has_table:
            return n.cast(codes, "FLOAT")
        table = n.constant(CodeTable.of(self.values).values.numpy())
        return n.op("Gather", table, n.cast(codes, "INT32"), shape=tuple(codes.shape or ()))

    @property
    def _has_table(self) -> bool:
        return self.type.startswith("UINT")
