"""Sums of integer products: how long they may be, and what an accumulator that wraps makes of them."""

import torch
from torch import Tensor

from precc.accumulation.tensor_ops import product_shape
from precc.errors import FormatError

__all__ = ["int_matmul", "safe_chain_length"]

_INTEGERS = (torch.int8, torch.int16, torch.int32)


def safe_chain_length(a_bits: int, b_bits: int, accumulator_bits: int = 32) -> int:
    """The largest n for which no sum of n products of integers overflows, whatever the operands.

    Operands are two's complement of `a_bits` and `b_bits`, so their magnitudes reach ``2**(a_bits - 1)`` and
    ``2**(b_bits - 1)``: n products are safe if and only if
    ``n * 2**(a_bits + b_bits - 2) <= 2**(accumulator_bits - 1) - 1``.

    Raises:
        FormatError: widths below 1.

    >>> safe_chain_length(8, 8), safe_chain_length(16, 8), safe_chain_length(16, 16)
    (131071, 511, 1)
    """
    for name, bits in (("a_bits", a_bits), ("b_bits", b_bits), ("accumulator_bits", accumulator_bits)):
        if type(bits) is not int or bits < 1:
            raise FormatError(f"{name} is a number of bits of at least 1, not {bits!r}")
    return int((2 ** (accumulator_bits - 1) - 1) // 2 ** (a_bits + b_bits - 2))


def int_matmul(a: Tensor, b: Tensor, accumulator_bits: int = 32) -> tuple[Tensor, Tensor]:
    """``a @ b`` of integers in an accumulator of two's complement that wraps, k ascending.

    Args:
        a: int8, int16 or int32, [M, K] or [B, M, K].
        b: of those, [K, N] or [B, K, N].
        accumulator_bits: 2 to 62.

    Returns:
        The sums as int64, and a bool mask of the outputs that had a partial sum beyond the accumulator.

    Raises:
        FormatError: other dtypes, shapes that do not fit, or another width.
    """
    if a.dtype not in _INTEGERS or b.dtype not in _INTEGERS:
        raise FormatError(f"int_matmul takes int8, int16 and int32 tensors, not {a.dtype} and {b.dtype}")
    if type(accumulator_bits) is not int or not 2 <= accumulator_bits <= 62:
        raise FormatError(f"int_matmul: an accumulator has 2 to 62 bits, not {accumulator_bits!r}")
    shape = product_shape(a, b)
    half = 2 ** (accumulator_bits - 1)
    left, right = a.long(), b.long()
    total = torch.zeros(shape, dtype=torch.int64, device=a.device)
    overflowed = torch.zeros(shape, dtype=torch.bool, device=a.device)
    for k in range(a.shape[-1]):
        exact = total + left[..., :, k, None] * right[..., k, None, :]
        total = ((exact + half) & (2 * half - 1)) - half
        overflowed |= total != exact
    return total, overflowed
