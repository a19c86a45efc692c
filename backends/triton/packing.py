"""Packing and unpacking by kernels, and the operators that do so in graphs, outside of groups."""

import torch
from torch import Tensor

from precc.amax_history import record
from precc.backends.triton.alike_rows import alike
from precc.backends.triton.device import Device
from precc.backends.triton.program import LiveRow
from precc.backends.triton.templates.cast_copies import Copy
from precc.backends.triton.templates.cast_kernels import kernels_of
from precc.backends.triton.templates.packed_tensors import codes_in, scales_in
from precc.backends.triton.templates.unpack import unpack_kernel
from precc.backends.triton.toolchain import device_of
from precc.errors import BackendError
from precc.packing import PackedLayout
from precc.packing.pack import pack, unpack
from precc.packing.pack_ops import define_packing
from precc.rounding import Row, parse_row
from precc.warn_caller import warn_caller

__all__ = ["PACK_TRITON", "UNPACK_TRITON", "pack_triton", "unpack_triton"]


def pack_triton(x: Tensor, row: Row, transposed: bool, key: int = 0, device: Device | None = None) -> Tensor:
    """`precc.packing.pack` by a generated kernel, byte for byte.

    Args:
        x: values, in the memory of a GPU, or of the processor under Triton's interpreter.
        row: the precision.
        transposed: whether the codes have their last two dimensions swapped.
        key: of the stochastic bits.
        device: that the tiles are for; by default that of `x`.

    Raises:
        BackendError: no kernel packs so; the message says why.
        FormatError: as `PackedLayout.of`.
    """
    if row.transform is not None:
        raise BackendError(f"triton: no kernel transforms values before it rounds ({row.transform.value})")
    values = x.detach().resolve_neg()
    copy = Copy(alike(row, x.dtype), tuple(range(x.dim())), packed=True, transposed=transposed)
    device = device_of(values) if device is None else device
    kernels = kernels_of(tuple(x.shape), values.stride(), x.dtype, (copy,), device, "packed")
    (result,) = kernels(values, [LiveRow(row, None, key, row.slot)])
    return result


def unpack_triton(
    packed: Tensor, row: Row, shape: tuple[int, ...], dtype: torch.dtype, transposed: bool, device: Device | None = None
) -> Tensor:
    """`precc.packing.unpack` by a generated kernel, bit for bit.

    Args:
        packed: what was made by the same row.
        row: likewise.
        shape: of the values.
        dtype: likewise.
        transposed: whether the codes have their last two dimensions swapped.
        device: that it is for; by default that of `packed`.

    Raises:
        BackendError: no kernel unpacks so; the message says why.
    """
    layout = PackedLayout.of(row, shape, dtype, transposed)
    kernel = unpack_kernel(alike(row, dtype), layout, dtype, device_of(packed) if device is None else device)
    result = torch.empty(shape, dtype=dtype, device=packed.device)
    if result.numel():
        storage = torch.int16 if layout.storage == 16 else torch.uint8
        live = LiveRow(row, None, 0, row.slot)
        given = {"codes_ptr": codes_in(packed, storage), "y_ptr": result, "row_live_ptr": live.on(packed.device)}
        if layout.scale_count:
            given["scales_ptr"] = scales_in(packed, layout)
        kernel(given)
    return result


def _pack(x: Tensor, plan: Tensor, row: int, transposed: bool) -> Tensor:
    values = plan[row].tolist()
    parsed, key = parse_row(values)
    if parsed.transform is not None:  # tensor operations transform, on every backend
        return pack(x, plan, row, transposed)
    try:
        packed = pack_triton(x, parsed, transposed, key)
    except BackendError as error:
        warn_caller(f"values are packed by tensor operations, with the same result: {error}")
        return pack(x, plan, row, transposed)
    record(x, values, row)
    return packed


def _unpack(
    packed: Tensor, plan: Tensor, row: int, shape: tuple[int, ...], dtype: torch.dtype, transposed: bool
) -> Tensor:
    parsed, _ = parse_row(plan[row].tolist())
    if PackedLayout.of(parsed, shape, dtype, transposed).stored is not None:
        return unpack(packed, plan, row, shape, dtype, transposed)  # values, as they are
    return unpack_triton(packed, parsed, shape, dtype, transposed)


#: The operators for nodes outside of groups; with a warning by tensor operations where no kernel packs.
PACK_TRITON, UNPACK_TRITON = define_packing("triton_", _pack, _unpack)
