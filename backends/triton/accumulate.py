"""Matrix products with a rounded running sum by Triton's kernels."""

from torch import Tensor

from precc.accumulation.accumulator import Accumulator
from precc.accumulation.patches import Patches
from precc.accumulation.tensor_ops import accumulate_tensor_ops, check_operands
from precc.backends.triton.load import launch
from precc.backends.triton.program import LiveRow
from precc.backends.triton.templates.accumulate import (
    Shape,
    accumulate_source,
    accumulate_values,
    grid_of_programs,
)
from precc.backends.triton.templates.accumulate_operands import Operand
from precc.backends.triton.toolchain import device_of

__all__ = ["accumulate", "selected"]


def accumulate(
    a: Tensor, b: Tensor | Patches, accumulator: Accumulator, key: int = 0, *, slot: int = 0, first: int = 0
) -> Tensor:
    """`precc.accumulation.tensor_ops.accumulate_tensor_ops` by a kernel, bit for bit.

    Args:
        a: float32 or float64, [M, K] or [A, M, K], of any strides.
        b: of the same dtype, [K, N], or [B, K, N] as a tensor or as patches, which are not laid out.
        accumulator: the format of the sum, and how it is rounded.
        key: of the stochastic bits.
        slot: number of the slot, as in `accumulate_tensor_ops`.
        first: number of the first output, likewise.

    Raises:
        FormatError: other dtypes or shapes.
        BackendError: no kernel sums so.
    """
    shape = check_operands(a, b)
    if a.is_meta:
        return accumulate_tensor_ops(a, b, accumulator, key, slot=slot, first=first)
    return _run(a, b, shape, None, accumulator, (key, slot, first))


def selected(
    a: Tensor, b: Tensor, select: Tensor, accumulator: Accumulator, key: int = 0, *, slot: int = 0, first: int = 0
) -> Tensor:
    """Likewise, of which only the selected outputs count; the others are anything."""
    shape = check_operands(a, b)
    return _run(a, b, shape, select.expand(shape).contiguous(), accumulator, (key, slot, first))


def _run(
    a: Tensor,
    b: Tensor | Patches,
    shape: tuple[int, ...],
    select: Tensor | None,
    accumulator: Accumulator,
    stream: tuple[int, int, int],
) -> Tensor:
    result = a.new_empty(shape)
    if not result.numel() or not a.shape[-1]:
        return result.zero_()
    left = a.resolve_neg()
    left = left if left.dim() == 3 else left[None]
    sizes = Shape(result.numel() // (shape[-2] * shape[-1]), left.shape[0], shape[-2], shape[-1], a.shape[-1])
    operands = Operand(a.dtype), Operand(a.dtype, gathered=isinstance(b, Patches))
    source = accumulate_source(
        accumulator, *operands, sizes, device_of(a), first=stream[2], selected=select is not None
    )
    behind = () if select is None else (select,)
    live = LiveRow(None, accumulator, *stream[:2])
    values = accumulate_values(accumulator, sizes, live, result.device, stream[2])
    args = (left, *left.stride(), *_placed(b), result, *behind, *values)
    launch(source, grid_of_programs(sizes, dict(source.tile)), args)
    return result


def _placed(b: Tensor | Patches) -> tuple[Tensor | int, ...]:
    """The tensor of a right operand, and where its items, rows and columns lie."""
    if isinstance(b, Patches):
        return (b.base, *(offsets.to(b.base.device) for offsets in b.offsets))
    right = b.resolve_neg()
    right = right if right.dim() == 3 else right[None]
    return (right, *right.stride())
