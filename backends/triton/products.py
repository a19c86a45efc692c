"""The operators of products with rounded sums, by Triton's kernels."""

from torch import Tensor

from precc.accumulation.kernels import Kernels
from precc.accumulation.product_ops import define_products
from precc.backends.triton.accumulate import accumulate, selected
from precc.backends.triton.rounding import round_triton
from precc.backends.triton.toolchain import device_of
from precc.backends.triton.two_pass import two_pass
from precc.rounding import Row

__all__ = ["KERNELS", "PRODUCTS_TRITON"]


def _rounded(x: Tensor, row: Row, key: int = 0) -> Tensor:
    return round_triton(x, row, key, device_of(x))


#: What gives the bits of tensor operations.
KERNELS = Kernels(_rounded, accumulate, selected, two_pass)

#: Products with a rounded sum, by name.
PRODUCTS_TRITON = define_products("triton_", KERNELS)
