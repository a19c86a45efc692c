"""Values in a tensor of an ONNX type: how they are written there, and by which nodes they are read as float32."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from precc.backends.onnx.node_writer import NodeWriter
from precc.extras import imported

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Codes", "Floats", "Integers", "Storage", "Stored", "cast", "first_opset", "same_bits", "smallest", "width"]

#: ONNX types: bits of a value, and the first opset in which Cast takes them.
_TYPES = {
    "FLOAT": (32, 1),
    "FLOAT16": (16, 1),
    "BFLOAT16": (16, 13),
    "FLOAT8E4M3FN": (8, 19),
    "FLOAT8E4M3FNUZ": (8, 19),
    "FLOAT8E5M2": (8, 19),
    "FLOAT8E5M2FNUZ": (8, 19),
    "FLOAT4E2M1": (4, 23),
    "FLOAT8E8M0": (8, 24),
    "FLOAT6E2M3": (6, 28),
    "FLOAT6E3M2": (6, 28),
    "INT2": (2, 25),
    "UINT2": (2, 25),
    "INT4": (4, 21),
    "UINT4": (4, 21),
    "INT8": (8, 1),
    "UINT8": (8, 1),
    "INT16": (16, 1),
    "UINT16": (16, 1),
}

_TORCH_TYPES = {"FLOAT": torch.float32, "FLOAT16": torch.float16, "BFLOAT16": torch.bfloat16}


def width(type: str) -> int:
    """The bits of a value of an ONNX type."""
    return _TYPES[type][0]


def first_opset(type: str) -> int:
    """The first opset in which Cast takes an ONNX type."""
    return _TYPES[type][1]


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
        codes = values.to(_TORCH_TYPES[self.type]).contiguous()
        array: NDArray[Any] = (codes.view(torch.uint16) if self.type == "BFLOAT16" else codes).numpy()
        return array

    def decode(self, codes: NDArray[Any]) -> Tensor:
        """The values."""
        return torch.from_numpy(codes).view(_TORCH_TYPES[self.type]).to(torch.float32)

    def read(self, n: NodeWriter, codes: "ir.Value") -> "ir.Value":
        """A Cast, if any."""
        return codes if self.type == "FLOAT" else cast(n, codes, "FLOAT")


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
        integers = cast(n, codes, "FLOAT")
        return integers if self.step == 1.0 else n.op("Mul", integers, n.number(self.step))


@dataclass(frozen=True, slots=True)
class Codes(Storage):
    """The codes of a format of at most 16 bits, with the value of each; an integer type has them in a table beside it.

    >>> Codes("UINT4", (0.0, 1.0, 1.5)).size(10)
    17
    """

    values: tuple[float, ...]

    def size(self, count: int) -> int:
        """With the table."""
        return -(-count * width(self.type) // 8) + (4 * len(self.values) if self._has_table else 0)

    def encode(self, values: Tensor) -> NDArray[Any]:
        """The smallest code of each value."""
        table = _Table.of(self.values)
        found = torch.bucketize(_keys(values), table.keys, out_int32=True).clamp_(max=len(table.keys) - 1)
        word = np.uint16 if width(self.type) > 8 else np.uint8
        array: NDArray[Any] = table.codes[found].numpy().astype(word)
        return array

    def decode(self, codes: NDArray[Any]) -> Tensor:
        """The values of codes."""
        return _Table.of(self.values).values[torch.from_numpy(codes.astype(np.int32))]

    def read(self, n: NodeWriter, codes: "ir.Value") -> "ir.Value":
        """A Cast; of integers, to what Gather takes."""
        if not self._has_table:
            return cast(n, codes, "FLOAT")
        table = n.constant(_Table.of(self.values).values.numpy())
        return n.op("Gather", table, cast(n, codes, "INT32"), shape=tuple(codes.shape or ()))

    @property
    def _has_table(self) -> bool:
        return self.type.startswith("UINT")


@dataclass(frozen=True, slots=True)
class _Table:
    """Float32 values by code; and their bits, ascending, with the smallest code of each."""

    values: Tensor
    keys: Tensor
    codes: Tensor

    @classmethod
    @lru_cache(maxsize=64)
    def of(cls, values: tuple[float, ...]) -> "_Table":
        by_code = torch.tensor(values, dtype=torch.float64).to(torch.float32)
        keys, order = _keys(by_code).sort(stable=True)
        return cls(by_code, keys, order.to(torch.int32))


def _keys(values: Tensor) -> Tensor:
    """Bits of float32 values, of one NaN for all."""
    return torch.where(values != values, math.nan, values).contiguous().view(torch.int32)


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether float32 tensors agree bit for bit, the signs of zeros included; one NaN is as another."""
    return torch.equal(_keys(one), _keys(other))


@dataclass(frozen=True, slots=True)
class Stored:
    """Values as they lie in a file."""

    storage: Storage
    codes: NDArray[Any]

    @classmethod
    def exactly(cls, values: Tensor, storage: Storage) -> "Stored | None":
        """Float32 values in a storage that gives them back bit for bit; None if it does not."""
        codes = storage.encode(values)
        return cls(storage, codes) if same_bits(storage.decode(codes), values) else None

    @property
    def size(self) -> int:
        """In bytes."""
        return self.storage.size(self.codes.size)

    def shaped(self, *shape: int) -> "Stored":
        """The same in another shape."""
        return replace(self, codes=self.codes.reshape(shape))

    def add(self, n: NodeWriter, name: str) -> "ir.Value":
        """The codes as a constant, whose name ends so, and the nodes that read them as float32."""
        return self.storage.read(n, self.add_codes(n, name))

    def add_codes(self, n: NodeWriter, name: str) -> "ir.Value":
        """The codes alone."""
        onnx_ir = imported("onnx_ir", "onnx")
        codes = np.asarray(self.codes, order="C")
        tensor = onnx_ir.Tensor(codes, dtype=onnx_ir.DataType[self.storage.type], name=f"{n.name}/{name}")
        return n.tape.initializer(tensor)


def smallest(values: Tensor, storages: Iterable[Storage]) -> Stored:
    """The smallest of the storages that give float32 values back bit for bit; FLOAT, which does, is one of them."""
    by_size = sorted(storages, key=lambda storage: storage.size(values.numel()))
    found = next(filter(None, (Stored.exactly(values, storage) for storage in by_size)), None)
    assert found is not None, "FLOAT holds every float32 value"
    return found


def cast(n: NodeWriter, value: "ir.Value", type: str, **attributes: Any) -> "ir.Value":
    """The values in another ONNX type."""
    return n.op("Cast", value, dtype=type, to=int(imported("onnx_ir", "onnx").DataType[type]), **attributes)
