"""Whether kernels can run here: Triton, and a GPU or Triton's interpreter."""

import os
import re
from functools import cache
from typing import Any

import torch
from torch import Tensor

from precc.backends.triton.device import INTERPRETER, Device
from precc.errors import BackendError

__all__ = ["OLDEST", "check", "current_device", "device_of", "interprets", "is_asked", "require_triton"]

#: What the kernels are tested with; older ones name options otherwise.
OLDEST = (3, 6)
_LEAST = 80
_INSTEAD = "or use another backend, as backend='auto' does"
_VARIABLE = "TRITON_INTERPRET"


def check() -> None:
    """Raise BackendError unless kernels can run here; the message has the ways out."""
    require_triton()
    current_device()


def require_triton() -> Any:
    """The module ``triton``, which is all that compiling needs.

    Raises:
        BackendError: it is not installed, or too old.
    """
    try:
        import triton
    except ImportError as error:
        raise BackendError(
            f"backend 'triton' needs Triton, which is not installed ({error}): pip install 'precc[triton]', {_INSTEAD}"
        ) from error
    oldest = ".".join(map(str, OLDEST))
    if tuple(map(int, re.findall(r"\d+", triton.__version__)[:2])) < OLDEST:
        raise BackendError(
            f"backend 'triton' needs Triton {oldest}, and {triton.__version__} is installed: "
            f"pip install 'triton>={oldest}', {_INSTEAD}"
        )
    return triton


def current_device() -> Device:
    """What kernels run on: the interpreter where it is chosen, else the current GPU.

    Raises:
        BackendError: there is none, or it is not supported.
    """
    if interprets():
        return INTERPRETER
    if torch.version.hip is not None:
        raise BackendError(
            f"backend 'triton' is for GPUs of NVIDIA, and this torch is for those of AMD (ROCm {torch.version.hip}): "
            f"use another backend, as backend='auto' does"
        )
    if not torch.cuda.is_available():
        raise BackendError(
            "backend 'triton' needs a GPU, and torch finds none: run it where one is, set the environment variable "
            f"{_VARIABLE}=1 before Python starts, so that Triton's interpreter runs the kernels, slowly, on the "
            f"processor, {_INSTEAD}; `precc kernels` compiles without either"
        )
    return _gpu(torch.cuda.current_device())


def device_of(x: Tensor) -> Device:
    """What kernels on a tensor run on: the interpreter where it is chosen, else the tensor's GPU.

    Raises:
        BackendError: it is on no GPU, or on one that is not supported.
    """
    if interprets():
        return INTERPRETER
    if x.device.type != "cuda":
        raise BackendError(
            f"triton: kernels on a tensor on {x.device} are run by Triton's interpreter alone: set the environment "
            f"variable {_VARIABLE}=1 before Python starts, or use a GPU"
        )
    return _gpu(x.get_device())


@cache
def _gpu(index: int) -> Device:
    found: Any = torch.cuda.get_device_properties(index)
    capability = 10 * found.major + found.minor
    if capability < _LEAST:
        raise BackendError(
            f"backend 'triton' needs a GPU of compute capability {_LEAST // 10}.{_LEAST % 10} (A100) or more, and "
            f"{found.name} has {found.major}.{found.minor}: use another GPU, {_INSTEAD}"
        )
    shared = int(found.shared_memory_per_block_optin)
    return Device(f"sm_{capability}", capability, shared, int(found.regs_per_multiprocessor))


def is_asked() -> bool:
    """Whether the environment asks for the interpreter, as triton.knobs reads it."""
    return os.environ.get(_VARIABLE, "0").lower() in ("1", "true", "on", "yes", "y")


def interprets() -> bool:
    """Whether Triton's interpreter runs the kernels of this process, which was settled when Triton was imported.

    Raises:
        BackendError: the environment variable was changed since: some kernels would be compiled, some interpreted.
    """
    require_triton()
    from triton.language import standard
    from triton.runtime.interpreter import InterpretedFunction

    settled = isinstance(standard.zeros, InterpretedFunction)
    if settled != is_asked():
        value = os.environ.get(_VARIABLE)
        now = f"{_VARIABLE} is {value!r}" if value is not None else f"{_VARIABLE} is not set"
        was = "with" if settled else "without"
        raise BackendError(
            f"{now}, and Triton was imported {was} its interpreter, which cannot change later: set the variable "
            "before Python starts"
        )
    return settled
