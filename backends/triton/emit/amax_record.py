"""Text that records largest magnitudes, from which later forwards have their scales.

They are kept as the bits of float64, whose order as integers is that of the magnitudes, NaN above all, so that programs
can share one by an atomic maximum; `precc.amax_history` reads them as numbers.
"""

from precc.backends.triton.emit.device_functions import TYPES, Types
from precc.backends.triton.kernel_source import Argument

__all__ = ["amax_argument", "amax_line", "magnitudes"]

_OF = {types.float: types for types in TYPES.values()}


def amax_argument(prefix: str) -> Argument:
    """Where the largest magnitude that a row rounds is kept."""
    return Argument(f"{prefix}_amax_ptr", "*i64")


def magnitudes(value: str, carrier: str) -> str:
    """The expression for magnitudes as integers of the carrier's width, 0 where there is no value."""
    types: Types = _OF[carrier]
    return f"tl.where(inside, {value}.to({types.integer}, bitcast=True) & 0x{types.magnitude_mask:X}, 0)"


def amax_line(prefix: str, largest: str, carrier: str) -> str:
    """The line that records one such integer."""
    as_number = f"{largest}.to({carrier}, bitcast=True).to(tl.float64)"
    return f"tl.atomic_max({prefix}_amax_ptr, {as_number}.to(tl.int64, bitcast=True))"
