"""Rounded copies of parameters are kept from one forward to the next, until the parameter is written to.

Micro-batches of one step read the same parameters. A copy holds for one tensor, its version counter, which every
write by an operator of PyTorch increases, and one precision. Any step of a `torch.optim.Optimizer` drops all copies
too: some write through ``.data``, which the counter does not see. Whoever writes so outside of an optimizer must call
`drop_casts`.
"""

import weakref
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cache

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.optim.optimizer import register_optimizer_step_post_hook

from precc.backends.triton.live_rows import PlanRows

__all__ = ["CastCache", "drop_casts"]


@dataclass(frozen=True, slots=True)
class _Kept:
    """What a copy was made of."""

    storage: StorageWeakRef
    version: int
    place: Hashable
    rows: Hashable
    copies: tuple[Tensor, ...]

    def holds(self, tensor: Tensor, rows: Hashable) -> bool:
        storage = StorageWeakRef(tensor.untyped_storage())
        same = self.storage == storage and not self.storage.expired()
        return same and self.version == tensor._version and self.place == _place(tensor) and self.rows == rows


class CastCache:
    """The last copies that one group made of one parameter, and how often they were taken in the place of new ones."""

    def __init__(self) -> None:
        self.reuses = 0
        self._kept: _Kept | None = None
        _caches.add(self)
        _drop_after_steps()

    def copies(self, tensor: Tensor, rows: PlanRows, make: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """The kept copies, or new ones."""
        wanted = rows.content
        if self._kept is not None and self._kept.holds(tensor, wanted):
            self.reuses += 1
            return self._kept.copies
        self._kept = None  # before new memory is taken
        copies = make()
        storage = StorageWeakRef(tensor.untyped_storage())
        self._kept = _Kept(storage, tensor._version, _place(tensor), wanted, copies)
        return copies

    def drop(self) -> None:
        """Keep nothing."""
        self._kept = None


_caches: "weakref.WeakSet[CastCache]" = weakref.WeakSet()


def drop_casts() -> None:
    """Forget all copies of parameters, of all nets: after a write through ``.data``."""
    for own in _caches:
        own.drop()


@cache
def _drop_after_steps() -> None:
    register_optimizer_step_post_hook(lambda *_: drop_casts())


def _place(tensor: Tensor) -> Hashable:
    return tensor.dtype, tuple(tensor.shape), tensor.stride(), tensor.storage_offset()
