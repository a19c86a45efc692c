"""Text of device functions between the dtypes of tensors and carriers, as PyTorch converts.

bfloat16 is converted on its bits: Triton's interpreter truncates where a GPU rounds, and misreads subnormal numbers.
"""

from dataclasses import dataclass

import torch

from precc.backends.triton.emit.device_functions import JIT
from precc.errors import BackendError

__all__ = ["POINTERS", "Conversion", "to_carrier", "to_dtype"]

_FROM_BFLOAT16 = f"""{JIT}def from_bfloat16(x):
    return (x.to(tl.int16, bitcast=True).to(tl.int32) << 16).to(tl.float32, bitcast=True)
"""

_TO_BFLOAT16 = f"""{JIT}def to_bfloat16(x):
    # to nearest, ties to even
    bits = x.to(tl.int32, bitcast=True)
    upper = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    upper = tl.where(x != x, 0x7FC0, upper)
    return upper.to(tl.int16).to(tl.bfloat16, bitcast=True)
"""

#: Types of pointers to tensors, as signatures have them.
POINTERS = {torch.float64: "*fp64", torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16"}


@dataclass(frozen=True, slots=True)
class Conversion:
    """An expression, with ``{}`` for what is converted, and the functions that it calls."""

    expression: str
    functions: str = ""

    def of(self, value: str) -> str:
        """The expression for a value."""
        return self.expression.format(value)


def to_carrier(dtype: torch.dtype, carrier: str) -> Conversion:
    """From elements of a tensor to a carrier, exact.

    Raises:
        BackendError: no tensor that is rounded has that dtype.
    """
    _checked(dtype)
    if dtype is torch.bfloat16:
        wider = ".to(tl.float64)" if carrier == "tl.float64" else ""
        return Conversion(f"from_bfloat16({{}}){wider}", _FROM_BFLOAT16)
    return Conversion("{}" if carrier == _NAMES[dtype] else f"{{}}.to({carrier})")


def to_dtype(carrier: str, dtype: torch.dtype) -> Conversion:
    """From a carrier to elements of a tensor, ties to even; from float64 to 16 bits by way of float32, as PyTorch.

    Raises:
        BackendError: no tensor that is rounded has that dtype.
    """
    _checked(dtype)
    if carrier == _NAMES[dtype]:
        return Conversion("{}")
    value = "{}.to(tl.float32)" if carrier == "tl.float64" else "{}"
    if dtype is torch.bfloat16:
        return Conversion(f"to_bfloat16({value})", _TO_BFLOAT16)
    return Conversion(value if dtype is torch.float32 else f"{value}.to({_NAMES[dtype]})")


_NAMES = {
    torch.float64: "tl.float64",
    torch.float32: "tl.float32",
    torch.bfloat16: "tl.bfloat16",
    torch.float16: "tl.float16",
}


def _checked(dtype: torch.dtype) -> None:
    if dtype not in _NAMES:
        raise BackendError(f"triton: a kernel rounds no {dtype} tensor: expected one of {', '.join(map(str, _NAMES))}")
