"""Matrix products with a rounded running sum by the compiled kernel."""

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from precc.accumulation.accumulator import Accumulator, Order
from precc.accumulation.patches import Patches
from precc.accumulation.tensor_ops import accumulate_tensor_ops, check_operands
from precc.backends.cpp.accumulate_paths import (
    FLOAT32,
    FLOAT64,
    UNREACHED,
    Facts,
    Kind,
    Path,
    all_zero,
    choose_path,
    is_fixed,
    kind_of,
)
from precc.backends.cpp.build import load_library
from precc.backends.cpp.memory import overlaps, written
from precc.backends.cpp.structures import GridStructure, grid_structure, random_mask
from precc.formats import FloatFormat
from precc.rounding import RoundingMode
from precc.rounding.row import Grid
from precc.rounding.tensor_ops import Carrier

__all__ = ["accumulate", "has_fast_path"]

_ORDERS, _MODES = tuple(Order), tuple(RoundingMode)


def _structure(*groups: tuple[Any, str]) -> list[tuple[str, Any]]:
    return [(name, kind) for kind, names in groups for name in names.split()]


class _FastGrid(ctypes.Structure):
    _fields_ = _structure((ctypes.c_int64, "least dropped negative_zero random_mask"), (ctypes.c_double, "low high"))


class _Job(ctypes.Structure):
    _fields_ = _structure(
        (ctypes.c_void_p, "items depths widths"),
        (
            ctypes.c_int64,
            "batch lefts rows columns depth first mode order chunk block compensated rounds_product odd limit ties "
            "threads outer_block outer_mode outer_odd fraction_bits",
        ),
        (ctypes.c_uint64, "key slot random_mask outer_random_mask"),
        (ctypes.c_double, "least_a least_b least_sum"),
        (GridStructure, "sum product outer"),
        (_FastGrid, "fast_sum fast_product"),
    )


class _Facts(ctypes.Structure):
    _fields_ = _structure((ctypes.c_int64, "least_bit width"), (ctypes.c_double, "amax"))


def accumulate(
    a: Tensor,
    b: Tensor | Patches,
    accumulator: Accumulator,
    key: int = 0,
    out: Tensor | None = None,
    *,
    slot: int = 0,
    first: int = 0,
) -> Tensor:
    """`accumulate_tensor_ops` by the compiled kernel, bit for bit; on other devices than the CPU by tensor operations.

    Args:
        a: float32 or float64, [M, K] or [A, M, K], of any strides.
        b: of the same dtype, [K, N], or [B, K, N] as a tensor or as patches, which are not laid out.
        accumulator: the format of the sum, and how it is rounded.
        key: of the stochastic bits.
        out: receives the result.
        slot: number of the slot, as in `accumulate_tensor_ops`.
        first: number of the first output, likewise.

    Raises:
        FormatError: other dtypes or shapes.
        BackendError: the kernels cannot be built on this machine.
    """
    shape = check_operands(a, b)
    if a.device.type != "cpu":
        result = accumulate_tensor_ops(a, b, accumulator, key, slot=slot, first=first)
        return result if out is None else out.copy_(result)
    right = b if isinstance(b, Patches) else Patches(b.resolve_neg().contiguous(), (), (), ())
    result = out if out is not None and _may_be_written(out, shape, a, right.base) else a.new_empty(shape)
    if result.numel():
        _run(a.resolve_neg().contiguous(), right, result, accumulator, (key, slot, first))
    if out is None:
        return result
    return written(out) if result is out else out.copy_(result)


def _may_be_written(out: Tensor, shape: Sequence[int], a: Tensor, b: Tensor) -> bool:
    """Whether the kernel may write to `out` what it finds from `a` and `b`."""
    fits = tuple(out.shape) == tuple(shape) and out.dtype is a.dtype and out.is_contiguous() and not out.is_neg()
    return fits and not (overlaps(out, a) or overlaps(out, b))


def has_fast_path(a: Tensor, b: Tensor, accumulator: Accumulator) -> bool:
    """Whether the kernel computes a product by the machine's own sums: ten times as fast as `exact_tile` or more.

    Args:
        a: float32 or float64, on the CPU, [..., M, K].
        b: of the same dtype, [..., K, N].
        accumulator: how sums are rounded.

    Raises:
        BackendError: the kernels cannot be built on this machine.
    """
    kind = kind_of(accumulator)
    if not kind.may_be_fast or not a.shape[-1]:
        return False
    return _path(kind, tuple(_facts(x.resolve_neg().contiguous()) for x in (a, b)), a) is not None


def _path(kind: Kind, facts: tuple[Facts, ...], a: Tensor) -> Path | None:
    return choose_path(kind, facts[0], facts[1], a.shape[-1], FLOAT64 if a.dtype is torch.float64 else FLOAT32)


def _run(a: Tensor, b: Patches, result: Tensor, accumulator: Accumulator, stream: tuple[int, int, int]) -> None:
    kind = kind_of(accumulator)
    path = None
    if kind.may_be_fast and a.shape[-1]:
        facts = _facts(a), _facts(b.base)
        if all_zero(*facts):
            result.zero_()
            return
        path = _path(kind, facts, a)
    target = result
    if path is not None and path.carrier.dtype is not a.dtype:
        a, b, target = a.double(), b.to(torch.float64), torch.empty_like(result, dtype=torch.float64)
    job = _job(kind, a, target, stream, path)
    offsets = b.offsets if b.depth else ()  # which must live as long as the job
    job.items, job.depths, job.widths = (offset.data_ptr() for offset in offsets) if offsets else (None, None, None)
    function = _functions(a.dtype).accumulate
    failed = function(a.data_ptr(), b.base.data_ptr(), target.data_ptr(), ctypes.byref(job), path is not None)
    assert not failed, "choose_path knows the modes of the fast paths"
    if target is not result:
        result.copy_(target)


def _job(kind: Kind, a: Tensor, result: Tensor, stream: tuple[int, int, int], path: Path | None) -> _Job:
    job = _Job.from_buffer_copy(_constant(kind, None if path is None else path.carrier))
    job.batch, job.lefts = (x.shape[0] if x.dim() == 3 else 1 for x in (result, a))
    job.rows, job.depth = a.shape[-2:]
    job.columns, job.threads = result.shape[-1], torch.get_num_threads()
    job.key, job.slot, job.first = stream
    job.limit, job.ties = (UNREACHED, False) if path is None else (path.limit, path.ties)
    return job


@lru_cache(maxsize=1024)
def _constant(kind: Kind, carrier: Carrier | None) -> _Job:
    """What of a job depends on the accumulator alone, and on the carrier of its fast path."""
    outer = kind.accumulator
    options = outer.inner or outer
    own = kind_of(options)
    job = _Job(
        mode=_MODES.index(options.rounding.mode),
        order=_ORDERS.index(Order.SEQUENTIAL if options.order is Order.BLOCKED else options.order),
        chunk=options.chunk,
        block=options.block,
        compensated=options.compensated,
        rounds_product=options.product is not None,
        odd=_is_odd(own.grid),
        outer_block=outer.block if outer.order is Order.BLOCKED else 0,
        outer_mode=_MODES.index(outer.rounding.mode),
        outer_odd=_is_odd(kind.grid),
        fraction_bits=options.fraction_bits,
        random_mask=random_mask(options.rounding.random_bits),
        outer_random_mask=random_mask(outer.rounding.random_bits),
        sum=grid_structure(own.grid, FLOAT64),
        product=grid_structure(own.grids[-1], FLOAT64),
        outer=grid_structure(kind.grid, FLOAT64),
    )
    if options.operands is not None:
        assert isinstance(options.format, FloatFormat)
        formats = (*options.operands, options.format)
        job.least_a, job.least_b, job.least_sum = (fmt.smallest_normal for fmt in formats)
    if carrier is not None:
        job.fast_sum = _fast_grid(kind.grid, carrier, job.random_mask)
        job.fast_product = _fast_grid(kind.grids[-1], carrier, job.random_mask)
    return job


def _is_odd(grid: Grid) -> bool:
    """Whether a sum is rounded to odd before it is rounded to the grid; float64's own is rounded once."""
    return grid.mantissa_bits < 52 or is_fixed(grid)


def _fast_grid(grid: Grid, carrier: Carrier, random_mask: int) -> _FastGrid:
    fixed = is_fixed(grid)
    least = grid.k_min + carrier.mantissa_bits if fixed else max(grid.emin, 1 - carrier.bias)
    dropped = 0 if fixed else carrier.mantissa_bits - grid.mantissa_bits
    return _FastGrid(least, dropped, grid.negative_zero, random_mask, grid.low, grid.high)


def _facts(x: Tensor) -> Facts:
    facts = _Facts()
    _functions(x.dtype).facts(x.data_ptr(), x.numel(), ctypes.byref(facts))
    return Facts(facts.least_bit, facts.width, facts.amax)


@dataclass(frozen=True, slots=True)
class _Functions:
    accumulate: Callable[..., int]
    facts: Callable[..., None]


@lru_cache(maxsize=2)
def _functions(dtype: torch.dtype) -> _Functions:
    kind, pointer = "double" if dtype is torch.float64 else "float", ctypes.c_void_p
    run, facts = (getattr(load_library(), f"precc_{name}_{kind}") for name in ("accumulate", "facts"))
    run.argtypes, facts.argtypes = [*[pointer] * 4, ctypes.c_int], [pointer, ctypes.c_int64, pointer]
    facts.restype = None
    return _Functions(run, facts)
