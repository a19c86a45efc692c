"""Counting magnitudes by the compiled kernels."""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from precc.analysis.magnitude_counts import BINS, TENSOR_OPS, Counting, Magnitudes, bits_of_dtype
from precc.backends.cpp.build import load_library
from precc.backends.cpp.memory import is_plain

__all__ = ["COMPILED"]


class _Summary(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("nonfinite", "smallest", "largest")]


@dataclass(frozen=True, slots=True)
class _Functions:
    infinity: int
    magnitudes: Callable[..., None]
    at_most: Callable[..., int]


@lru_cache(maxsize=4)
def _functions(dtype: torch.dtype) -> _Functions:
    bits, pointer = bits_of_dtype(dtype), ctypes.c_void_p
    size = torch.iinfo(bits.integer).bits
    magnitudes, at_most = (getattr(load_library(), f"precc_{name}_{size}") for name in ("magnitudes", "at_most"))
    magnitudes.argtypes = [pointer, ctypes.c_int64, ctypes.c_int64, pointer, pointer, ctypes.c_int]
    at_most.argtypes = [pointer, ctypes.c_int64, ctypes.c_int64, ctypes.c_int, ctypes.c_int]
    magnitudes.restype, at_most.restype = None, ctypes.c_int64
    return _Functions(bits.infinity, magnitudes, at_most)


def _magnitudes(x: Tensor) -> Magnitudes:
    """As by `TENSOR_OPS`.

    Raises:
        BackendError: the kernels cannot be built on this machine.
    """
    if not is_plain(x):
        return TENSOR_OPS.magnitudes(x)
    own, x = _functions(x.dtype), _in_order(x)
    bins, found = np.zeros(BINS, dtype=np.int64), _Summary()
    target, threads = bins.ctypes.data, torch.get_num_threads()
    own.magnitudes(x.data_ptr(), x.numel(), own.infinity, target, ctypes.byref(found), threads)
    return Magnitudes(bins, found.nonfinite, found.smallest, found.largest)


def _at_most(x: Tensor, end: int, negative: bool | None) -> int:
    if not is_plain(x):
        return TENSOR_OPS.at_most(x, end, negative)
    x, sign = _in_order(x), 0 if negative is None else -1 if negative else 1
    return _functions(x.dtype).at_most(x.data_ptr(), x.numel(), end, sign, torch.get_num_threads())


def _in_order(x: Tensor) -> Tensor:
    return x.resolve_neg().contiguous()


COMPILED = Counting(_magnitudes, _at_most)
