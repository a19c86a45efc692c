"""Triton's interpreter without what it does again for each call of a function by a kernel."""

from typing import Any

from triton import language
from triton.runtime import interpreter


def patch_once() -> None:
    """Functions of our kernels find Triton's language as the kernel's own start has left it: a fifth of the time."""
    interpreter.InterpretedFunction.__call__ = _called


def _called(self: Any, *args: Any, **kwargs: Any) -> Any:
    if self.fn.__globals__.get("tl") is not language:  # those of Triton's own library know it in parts
        interpreter._patch_lang(self.fn)
    return self.rewrite()(*args, **kwargs)
