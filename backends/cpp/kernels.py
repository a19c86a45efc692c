"""Rounding by the compiled kernels: what they are given, and which tensors they take."""

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor

from precc.backends.cpp.build import load_library
from precc.backends.cpp.memory import is_plain, overlaps, written
from precc.backends.cpp.structures import GridStructure, grid_structure, random_mask
from precc.errors import BackendError
from precc.rounding import MAX_RANDOM_BITS, Row, quantize
from precc.rounding.scales import block_shape, scale_grid
from precc.rounding.tensor_ops import Carrier, carrier_of_dtype
from precc.warn_caller import warn_caller

__all__ = ["compiled_or_tensor_ops", "random_numbers", "round_compiled", "warn_without_kernels"]


class _Draw(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("key", "slot", "random_mask")]


class _Scale(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("rule", "two_level")),
        *((name, ctypes.c_double) for name in ("low", "high", "element_high")),
        ("grid", GridStructure),
    ]


class _Shape(ctypes.Structure):
    _fields_ = [("size", ctypes.c_int64 * 4), ("block", ctypes.c_int64 * 4)]


def _has_kernel(row: Row) -> bool:
    """Whether the kernels compute this row; power-law grids and nested integers have tensor operations only.

    A row whose history is missing goes there too, to be refused.
    """
    return not (row.power or row.shift or row.mode_needs_state or row.lacks_history)


def round_compiled(x: Tensor, row: Row, key: int = 0, out: Tensor | None = None) -> Tensor:
    """`quantize` by the kernels, bit for bit.

    Returns `x` itself where nothing changes, `out`, which may be `x`, or a tensor with the strides of
    ``torch.empty_like(x)``.

    Raises:
        BackendError: the kernels cannot be built on this machine.
    """
    call = _prepared(row, x.dtype) if is_plain(x) and (out is None or is_plain(out)) else None
    if call is None:
        rounded = quantize(x, row, key)
        return rounded if out is None else out.copy_(rounded)
    values = x.resolve_neg().to(call.carrier.dtype)
    # where each element is rounded by itself, the order of the elements in memory does not matter
    if not values.is_contiguous() and (call.needs_order or not _is_dense(values)):
        values = values.contiguous()
    result = out if out is not None and _may_be_written(out, values) else torch.empty_like(values)
    if values.numel():
        call(values, result, key)
    if out is not None:
        return written(out) if result is out else out.copy_(result)
    return result if result.dtype is x.dtype and result.stride() == x.stride() else torch.empty_like(x).copy_(result)


def compiled_or_tensor_ops(x: Tensor, row: Row, key: int = 0, out: Tensor | None = None) -> Tensor:
    """`round_compiled`, or where there are no kernels the same by tensor operations, with one warning."""
    if not warn_without_kernels():
        return round_compiled(x, row, key, out)
    rounded = quantize(x, row, key)
    return rounded if out is None else out.copy_(rounded)


def warn_without_kernels() -> bool:
    """Whether there are no kernels on this machine; a warning if so."""
    problem = why_no_kernels()
    if problem is not None:
        warn_caller(
            f"precc computes by tensor operations, with the same results but ten to a hundred times slower: {problem}"
        )
    return problem is not None


@cache
def why_no_kernels() -> str | None:
    """Why this machine has no compiled kernels; None where it has."""
    try:
        load_library()
    except BackendError as error:
        return str(error)
    return None


def _may_be_written(out: Tensor, values: Tensor) -> bool:
    """Whether a kernel that reads `values` may write to `out`: the same layout, at one place or at places apart."""
    if out.dtype is not values.dtype or out.stride() != values.stride() or out.is_neg():
        return False
    return out.data_ptr() == values.data_ptr() or not overlaps(out, values)


def _is_dense(x: Tensor) -> bool:
    """Whether its elements fill a piece of memory, in any order: only then does a like tensor have the same strides."""
    return torch.empty_like(x, device="meta").stride() == x.stride()


@dataclass(frozen=True, eq=False)
class _Call:
    """A kernel with the arguments that only depend on the row and the dtype."""

    function: Callable[..., int]
    carrier: Carrier
    row: Row
    grid: Any
    scale: Any  # None where the scale is one number

    @property
    def needs_order(self) -> bool:
        """Whether elements are told apart by their index."""
        return self.scale is not None or self.row.is_stochastic

    def __call__(self, x: Tensor, y: Tensor, key: int) -> None:
        row = self.row
        draw = _no_draw() if not row.is_stochastic else ctypes.byref(_Draw(key, row.slot, random_mask(row.random_bits)))
        source, target, threads = x.data_ptr(), y.data_ptr(), torch.get_num_threads()
        if self.scale is None:
            count, scale = x.numel(), row.scale.value
            failed = self.function(source, target, count, row.mode_index, self.grid, draw, scale, threads)
        else:
            shape = _shape(x.shape, row)
            failed = self.function(source, target, shape, row.mode_index, self.grid, draw, self.scale, threads)
        assert not failed, "the kernels know every mode that _has_kernel lets through"


@lru_cache(maxsize=8192)
def _prepared(row: Row, dtype: torch.dtype) -> _Call | None:
    if row.is_identity(dtype) or not _has_kernel(row):
        return None
    carrier = carrier_of_dtype(dtype, row)
    kind = "double" if carrier.dtype is torch.float64 else "float"
    one_scale = not row.finds_scales
    function = getattr(load_library(), f"precc_round_{'' if one_scale else 'blocks_'}{kind}")
    extent = (ctypes.c_int64, ctypes.c_double) if one_scale else (ctypes.c_void_p, ctypes.c_void_p)
    pointer = ctypes.c_void_p
    function.argtypes = [pointer, pointer, extent[0], ctypes.c_int, pointer, pointer, extent[1], ctypes.c_int]
    scale = None if one_scale else ctypes.byref(_scale(row, carrier))
    return _Call(function, carrier, row, ctypes.byref(grid_structure(row.grid, carrier)), scale)


@lru_cache(maxsize=1)
def _no_draw() -> Any:
    return ctypes.byref(_Draw(0, 0, 0))


def _scale(row: Row, carrier: Carrier) -> _Scale:
    scale = row.scale
    grid = grid_structure(scale_grid(scale), carrier)
    return _Scale(scale.rule, scale.two_level, scale.low, scale.high, scale.element_high, grid)


@lru_cache(maxsize=8192)
def _shape(shape: Sequence[int], row: Row) -> Any:
    sizes, blocks = _merged(shape, block_shape(shape, row))
    return ctypes.byref(_Shape((ctypes.c_int64 * 4)(*sizes), (ctypes.c_int64 * 4)(*blocks)))


def _merged(shape: Sequence[int], extent: Sequence[int]) -> tuple[list[int], list[int]]:
    """The same blocks of a tensor seen in four dimensions."""
    merged: list[tuple[int, int]] = []
    for size, block in zip(reversed(shape), reversed(extent), strict=True):
        if size == 1:
            continue
        inner, inner_block = merged[-1] if merged else (1, 1)
        if merged and inner_block >= inner:
            merged[-1] = (size * inner, min(block, size) * inner)
        elif merged and block == 1 and inner % inner_block == 0:
            merged[-1] = (size * inner, inner_block)
        else:
            merged.append((size, min(block, size)))
    merged += [(1, 1)] * (4 - len(merged))
    return [size for size, _ in reversed(merged)], [block for _, block in reversed(merged)]


def random_numbers(key: int, slot: int, start: int, count: int, random_bits: int = MAX_RANDOM_BITS) -> Tensor:
    """The kernels' 31-bit random numbers of the elements from `start` on, as int64: what roundings there draw."""
    numbers = torch.empty(count, dtype=torch.int32)
    draw = _Draw(key, slot, random_mask(random_bits))
    function = load_library().precc_random
    function.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p]
    function(numbers.data_ptr(), start, count, ctypes.byref(draw))
    return numbers.long()
