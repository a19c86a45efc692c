"""Backends: one a file, file name = the name that `precc.compile` takes."""

from collections.abc import Callable

from torch import Tensor

from precc.accumulation.kernels import Accumulate, offer
from precc.analysis.magnitude_counts import TENSOR_OPS, Counting
from precc.backends.cpp.accumulate import accumulate
from precc.backends.cpp.backend import Cpp
from precc.backends.cpp.kernels import round_compiled
from precc.backends.cpp.magnitudes import COMPILED
from precc.backends.inductor import Inductor
from precc.backends.reference import Reference
from precc.backends.triton.backend import Triton
from precc.errors import BackendError, expected_one_of
from precc.protocols import Backend
from precc.rounding import Row, quantize
from precc.warn_caller import warn_caller

__all__ = ["BACKENDS", "eager_backend", "fastest_counting", "fastest_rounding", "find_backend"]

#: By name, in order of preference: the first one is what ``"auto"`` means.
BACKENDS: dict[str, Backend] = {backend.name: backend for backend in (Inductor(), Cpp(), Reference(), Triton())}


def find_backend(name: str | Backend) -> tuple[Backend, str]:
    """The backend of a name, or that is given, checked to run on this machine, and what ``"auto"`` would prefer lacks.

    ``"auto"`` is the first that can run here; a `PrecisionWarning` says if it is not the first of all.

    Raises:
        BackendError: unknown, or cannot run here; the message says what is missing.
    """
    if not isinstance(name, str):
        if not all(hasattr(name, own) for own in ("name", "check", "compile")):
            raise BackendError(f"a backend is a name or has name, check and compile; {name!r} has not")
        name.check()
        return name, ""
    if name == "auto":
        return _first_that_runs()
    if name not in BACKENDS:
        raise BackendError(f"unknown backend {name!r}: {expected_one_of(['auto', *BACKENDS])}")
    backend = BACKENDS[name]
    backend.check()
    return backend, ""


def eager_backend() -> Backend:
    """The fastest one that runs a graph op by op: with compiled kernels, where this machine can build them."""
    return BACKENDS[Cpp.name if _has_kernels() else Reference.name]  # bit for bit the same


def fastest_counting() -> Counting:
    """How magnitudes are counted: by compiled kernels, where this machine can build them."""
    return COMPILED if _has_kernels() else TENSOR_OPS  # the same numbers


def fastest_rounding() -> Callable[[Tensor, Row, int], Tensor]:
    """How tensors outside of graphs are rounded: by compiled kernels, where this machine can build them."""
    return round_compiled if _has_kernels() else quantize  # bit for bit the same


def _fastest_accumulate() -> Accumulate | None:
    return accumulate if _has_kernels() else None  # bit for bit the same


def _has_kernels() -> bool:
    try:
        BACKENDS[Cpp.name].check()
    except BackendError:
        return False
    return True


def _first_that_runs() -> tuple[Backend, str]:
    lacking = ""
    for backend in BACKENDS.values():
        try:
            backend.check()
        except BackendError as error:
            lacking = lacking or str(error)
            continue
        if lacking:
            warn_caller(f"precc runs on the backend {backend.name!r}: {lacking}")
        return backend, lacking
    raise BackendError(lacking)


offer(_fastest_accumulate)
