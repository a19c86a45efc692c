"""Values as they lie in a file: codes of an ONNX type that give them back bit for bit."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from precc.backends.onnx.roundings.node_writer import NodeWriter
from precc.backends.onnx.weights.same_bits import same_bits
from precc.backends.onnx.weights.storage import Storage
from precc.extras import imported

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Stored", "smallest"]


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
