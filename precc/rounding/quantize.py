"""A tensor rounded to a precision, with tensor operations: on any device, bit for bit what the kernels compute."""

from torch import Tensor

from precc.rounding.row import Row
from precc.rounding.scales import divisor_of, scale_of
from precc.rounding.tensor_ops import carrier_of, round_elements

__all__ = ["quantize"]


def quantize(x: Tensor, row: Row, key: int = 0) -> Tensor:
    """`x` rounded as `row` says, in the dtype of `x`; the same tensor where nothing can change.

    float16 and bfloat16 tensors are rounded in float32; a result that they cannot hold (a saturation
    value beyond their own precision) is then rounded once more by the conversion back. `key` is that of the
    stochastic bits.
    """
    if row.is_identity(x.dtype):
        return x
    values = x.to(carrier_of(x, row).dtype)
    if row.granularity is None:
        return round_elements(values, row, key).to(x.dtype)
    scale = scale_of(values, row)
    return (round_elements(values / divisor_of(scale), row, key) * scale).to(x.dtype)
