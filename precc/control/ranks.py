"""The processes of a distributed training: what one decides, all do."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from precc.analysis.metric import metric_norm
from precc.errors import ControllerError

__all__ = ["Ranks"]

_Decided = TypeVar("_Decided")


@dataclass(frozen=True, slots=True)
class Ranks:
    """The default group of ``torch.distributed``, or one process alone.

    Args:
        size: how many.
        rank: of this one.
    """

    size: int = 1
    rank: int = 0

    @classmethod
    def present(cls) -> "Ranks":
        """Those of now."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return cls()
        return cls(distributed.get_world_size(), distributed.get_rank())

    @property
    def decides(self) -> bool:
        """Whether this one is the first."""
        return self.rank == 0

    def told(self, value: Any) -> Any:
        """What the first one says, plain data."""
        if self.size == 1:
            return value
        said = [value]
        distributed.broadcast_object_list(said, src=0)
        return said[0]

    def decided(self, decide: Callable[[], _Decided]) -> _Decided:
        """What the first one decides, plain data; where it fails, all do.

        Raises:
            ControllerError: on the others, where the first one raised.
        """
        if self.size == 1:
            return decide()
        if not self.decides:
            found, failed = self.told(None)
            if failed:
                raise ControllerError(f"the first rank failed: {failed}")
            decided: _Decided = found
            return decided
        try:
            own = decide()
        except BaseException as error:
            self.told((None, repr(error)))
            raise
        self.told((own, ""))
        return own

    def first_of(self, value: Any) -> Any:
        """Of what all of them have, plain data, that of the first one that has something."""
        if self.size == 1:
            return value
        every = [None] * self.size
        distributed.all_gather_object(every, value)
        return next((own for own in every if own is not None), None)

    def noise(self, gradient: Mapping[str, Tensor], metric: Mapping[str, Tensor]) -> float:
        """Variance of the mean of independent gradients g: ``(mean ||g||**2 - ||mean g||**2) / (size - 1)``."""
        square = torch.tensor(metric_norm(gradient, metric) ** 2, dtype=torch.float64)
        mean = {name: own.detach().clone() for name, own in gradient.items()}
        device = next(iter(mean.values())).device
        for own in (square := square.to(device), *mean.values()):
            distributed.all_reduce(own)
            own /= self.size
        return max(float(square) - metric_norm(mean, metric) ** 2, 0.0) / (self.size - 1)
