"""Text of device functions: how numbers stand in it, and modules made of several texts."""

import hashlib
import math
import re
from dataclasses import dataclass

import torch

__all__ = ["JIT", "TYPES", "Types", "joined", "literal", "named_after"]

#: What stands above each device function.
JIT = "@triton.jit\n"


@dataclass(frozen=True, slots=True)
class Types:
    """A carrier in kernels: its name, and that of the integer on which its bits are read."""

    float: str
    integer: str
    magnitude_mask: int
    mantissa_bits: int
    bias: int

    @property
    def bits(self) -> int:
        """Of the carrier."""
        return 1 + self.magnitude_mask.bit_length()

    @property
    def sign(self) -> str:
        """The integer that has the sign bit alone."""
        return f"-0x{self.magnitude_mask + 1:x}"

    def divided(self, x: str, y: str) -> str:
        """The correctly rounded quotient: a plain one of float32 is approximate on a GPU."""
        return f"tl.div_rn({x}, {y})" if self.float == "tl.float32" else f"(({x}) / ({y}))"


#: Of the dtypes in which values are rounded, and by their names in kernels.
TYPES = {
    torch.float32: Types("tl.float32", "tl.int32", 0x7FFFFFFF, 23, 127),
    torch.float64: Types("tl.float64", "tl.int64", 0x7FFFFFFFFFFFFFFF, 52, 1023),
}


def literal(number: float) -> str:
    """A number as text that a kernel reads exactly, into a type that holds it."""
    return repr(number) if math.isfinite(number) else f'float("{number}")'


def named_after(prefix: str, body: str) -> str:
    """A function's name from what one reads of it, and a digest that tells unequal bodies apart."""
    readable = re.sub(r"\W", "_", prefix.replace("-", "n"))
    return f"{readable}_{hashlib.sha256(body.encode()).hexdigest()[:4]}"


def joined(*texts: str) -> str:
    """The functions of several texts, each once, in their order."""
    functions = dict.fromkeys(part.strip() for text in texts for part in text.split(JIT) if part.strip())
    return "\n\n".join(f"{JIT}{function}\n" for function in functions)
