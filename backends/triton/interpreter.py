"""One kernel at a time by Triton's interpreter, as a GPU would run it."""

import operator
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any

__all__ = ["interpreting"]

_lock = threading.RLock()


@contextmanager
def interpreting() -> Iterator[None]:
    """One kernel at a time: the interpreter puts its own functions into Triton's language meanwhile, for all threads.

    A GPU does not warn of infinities and NaN, nor of what masks leave out; neither does the interpreter here.
    """
    import numpy as np

    with _lock, np.errstate(all="ignore"), nullcontext() if _has_indices() else _indices():
        yield


@cache
def _has_indices() -> bool:
    """Whether a number inside a kernel may be a bound of ``range`` there.

    Triton 3.6 and some later ones call ``int`` of an array of one element, of which numpy warns from 1.25 on, and which
    it refuses from 2.4 on.
    """
    import numpy as np
    import triton.language as tl
    from triton.runtime import interpreter

    number = tl.tensor(interpreter.TensorHandle(np.array([1], dtype=np.int32), tl.int32), tl.int32)
    scope = interpreter._LangPatchScope()
    interpreter._patch_lang_tensor(tl.tensor, scope)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return operator.index(number) == 1
    except (TypeError, DeprecationWarning):
        return False
    finally:
        scope.restore()


@contextmanager
def _indices() -> Iterator[None]:
    """Meanwhile numbers inside kernels are bounds of ``range``, as they are to a compiler."""
    from triton.runtime import interpreter

    before = interpreter._patch_lang_tensor

    def patched(tensor: Any, scope: Any) -> None:
        before(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda number: number.handle.data.item())

    interpreter._patch_lang_tensor = patched
    try:
        yield
    finally:
        interpreter._patch_lang_tensor = before
