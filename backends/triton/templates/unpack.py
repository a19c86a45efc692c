"""The kernel that makes values of a packed tensor."""

import math
from functools import lru_cache

import torch

from precc.backends.triton.device import Device
from precc.backends.triton.emit.codes import code_text
from precc.backends.triton.emit.conversions import POINTERS, to_dtype
from precc.backends.triton.emit.device_functions import TYPES, joined
from precc.backends.triton.emit.live_numbers import live_argument, scale_line
from precc.backends.triton.kernel_source import Argument, KernelSource
from precc.backends.triton.templates.addresses import are_beyond
from precc.backends.triton.templates.bound_kernel import BoundKernel
from precc.errors import BackendError
from precc.packing import PackedLayout
from precc.rounding import Row
from precc.rounding.scales import block_shape

__all__ = ["unpack_kernel"]

_BLOCK, _BLOCK_INTERPRETED, _WARPS = 1024, 1 << 18, 4


@lru_cache(maxsize=1024)
def unpack_kernel(row: Row, layout: PackedLayout, dtype: torch.dtype, device: Device) -> BoundKernel:
    """The kernel that reads codes and scales of a layout and writes values, in row-major order of the tensor.

    It is given ``codes_ptr``, ``scales_ptr`` where the layout has scales, ``row_live_ptr`` where the row has a static
    one, and ``y_ptr``.

    Args:
        row: that rounded the values; rows that are alike share a kernel.
        layout: of the packed tensor, which stores codes.
        dtype: of the values.
        device: that it is for.

    Raises:
        BackendError: no kernel writes this dtype, or the values are stored as they are.
    """
    if layout.stored is not None:
        raise BackendError(f"triton: values that are stored as {layout.stored} need no kernel")
    count = math.prod(layout.shape)
    block = _BLOCK_INTERPRETED if device.interpreted else _BLOCK
    sizes = {f"size{n}": size for n, size in enumerate(layout.shape)}
    source = _source(row, layout, dtype, block, count)
    return BoundKernel.of(source, (-(-count // block),), {"count": count, **sizes, **_scale_strides(layout)})


def _scale_strides(layout: PackedLayout) -> dict[str, int]:
    return {f"scale{n}": math.prod(layout.blocks[n + 1 :]) for n in range(len(layout.blocks))}


def _source(row: Row, layout: PackedLayout, dtype: torch.dtype, block: int, count: int) -> KernelSource:
    wide = are_beyond([count])
    lines, arguments, functions = _lines(row, layout, dtype, wide)
    text = "\n\n".join(
        [
            "import triton\nimport triton.language as tl\n",
            functions,
            f"@triton.jit\ndef unpacked({', '.join(own.name for own in arguments)}, BLOCK: tl.constexpr):\n"
            + "".join(f"    {line}\n" for line in lines),
        ]
    )
    moved = layout.bytes + count * dtype.itemsize
    return KernelSource("unpacked", "unpack", text, arguments, {"BLOCK": block}, _WARPS, bytes=moved)


def _lines(
    row: Row, layout: PackedLayout, dtype: torch.dtype, wide: bool
) -> tuple[list[str], tuple[Argument, ...], str]:
    carrier, integer = TYPES[layout.scale_dtype].float, "i64" if wide else "i32"
    codes, written = code_text(row, dtype), to_dtype(carrier, dtype)
    scale, of_scale, needed = _scale(row, layout)
    needed |= {len(layout.shape) - 2, len(layout.shape) - 1} if layout.transposed else set()
    sizes = range(min(needed, default=len(layout.shape)), len(layout.shape))
    strides = [n for n in range(len(layout.blocks)) if f"scale{n}" in of_scale]
    pointers = [Argument("codes_ptr", "*i16" if layout.storage == 16 else "*u8")]
    pointers += [Argument("scales_ptr", POINTERS[layout.scale_dtype])] if layout.scale_count else []
    pointers += [live_argument("row")] if "row_scale" in scale else []
    numbers = ["count", *(f"size{n}" for n in sizes), *(f"scale{n}" for n in strides)]
    arguments = (*pointers, Argument("y_ptr", POINTERS[dtype]), *(Argument(own, integer) for own in numbers))
    value = codes.decode.format(_code(layout))
    return (
        [
            f"# values of codes of {layout.storage} bits",
            f"index = tl.program_id(0){'.to(tl.int64)' if wide else ''} * BLOCK + tl.arange(0, BLOCK)",
            "inside = index < count",
            *_coordinates(layout, needed),
            f"place = {_place(layout)}",
            *([scale_line("row_scale", "row", carrier)] if "row_scale" in scale else []),
            *([f"scale = {of_scale}"] if of_scale else []),
            f"y = {value}{f' * {scale}' if scale else ''}",
            f"tl.store(y_ptr + index, {written.of('y')}, mask=inside)",
        ],
        arguments,
        joined(codes.decoder, written.functions),
    )


def _coordinates(layout: PackedLayout, needed: set[int]) -> list[str]:
    """Lines for the coordinates of elements that are needed, from the last on."""
    lines, rest = [], "index"
    for n in reversed(range(min(needed, default=len(layout.shape)), len(layout.shape))):
        lines += [f"at{n} = {rest} % size{n}", f"rest = {rest} // size{n}"]
        rest = "rest"
    return lines


def _place(layout: PackedLayout) -> str:
    if not layout.transposed:
        return "index"
    rows, columns = len(layout.shape) - 2, len(layout.shape) - 1
    return f"(index // (size{rows} * size{columns}) * size{columns} + at{columns}) * size{rows} + at{rows}"


def _code(layout: PackedLayout) -> str:
    if layout.storage == 4:
        pairs = "tl.load(codes_ptr + (place >> 1), mask=inside, other=0).to(tl.int32)"
        return f"(({pairs} >> ((place & 1) * 4).to(tl.int32)) & 15)"
    return "tl.load(codes_ptr + place, mask=inside, other=0)"


def _scale(row: Row, layout: PackedLayout) -> tuple[str, str, set[int]]:
    """The factor of values, the expression of the scale in it, and the dimensions whose coordinates that needs."""
    if not row.finds_scales:
        factors = ["row_scale"] * (row.granularity is not None) + ["scale"] * layout.marks_nan
        of_nan = "tl.load(scales_ptr)" if layout.marks_nan else ""
        return (f"({' * '.join(factors)})" if len(factors) > 1 else "".join(factors)), of_nan, set()
    extents = block_shape(layout.shape, row)
    places, needed = [], set()
    for n, (extent, size) in enumerate(zip(extents, layout.shape, strict=True)):
        if extent < size:
            needed.add(n)
            places.append(f"{f'at{n}' if extent == 1 else f'at{n} // {extent}'} * scale{n}")
    if not places:
        return "scale", "tl.load(scales_ptr)", needed
    return "scale", f"tl.load(scales_ptr + {' + '.join(places)}, mask=inside, other=0.0)", needed
