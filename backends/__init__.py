"""Backends: one a file, file name = the name that `precc.compile` takes."""

from precc.backends.cpp.backend import Cpp
from precc.backends.inductor import Inductor
from precc.backends.reference import Reference
from precc.errors import BackendError, expected_one_of
from precc.protocols import Backend

__all__ = ["BACKENDS", "find_backend"]

#: By name, in order of preference: the first one is what ``"auto"`` means.
BACKENDS: dict[str, Backend] = {backend.name: backend for backend in (Inductor(), Cpp(), Reference())}


def find_backend(name: str) -> Backend:
    """The backend of a name, checked to run on this machine.

    Raises:
        BackendError: unknown, or cannot run here; the message says what is missing.
    """
    if name == "auto":
        name = next(iter(BACKENDS))
    if name not in BACKENDS:
        raise BackendError(f"unknown backend {name!r}: {expected_one_of(['auto', *BACKENDS])}")
    backend = BACKENDS[name]
    backend.check()
    return backend
