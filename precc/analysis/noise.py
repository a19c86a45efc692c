"""Random signs and normal numbers in the shape of tensors, at the speed of a copy.

They repeat after a prime number of elements: two elements share a number only where their distance in the tensor is a
multiple of it, which no stride of a layer is.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

__all__ = ["Noise"]

_PERIOD = 262_139


@dataclass(frozen=True, eq=False)
class Noise:
    """Numbers from a seed, which begin elsewhere for each place.

    Args:
        seed: of all of them.
    """

    seed: int = 0
    _normal: Tensor = field(init=False)
    _signs: Tensor = field(init=False)

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(self.seed & (2**63 - 1))
        numbers = torch.randn(_PERIOD, generator=generator, dtype=torch.float32).repeat(2)
        object.__setattr__(self, "_normal", numbers)
        object.__setattr__(self, "_signs", torch.copysign(torch.ones_like(numbers), numbers))

    def normal(self, like: Tensor, place: int) -> Tensor:
        """Normal numbers of mean 0 and variance 1, not to be changed."""
        return self._laid_out("_normal", like, place)

    def signs(self, like: Tensor, place: int) -> Tensor:
        """+1 and -1, with equal chances, not to be changed."""
        return self._laid_out("_signs", like, place)

    def _laid_out(self, kind: str, like: Tensor, place: int) -> Tensor:
        """A part of the repeated numbers, as many times as the longest tensor so far needs."""
        numbers: Tensor = getattr(self, kind)
        start = place % _PERIOD
        end = start + like.numel()
        if end > len(numbers):
            numbers = numbers[:_PERIOD].repeat(-(-end // _PERIOD))
            object.__setattr__(self, kind, numbers)
        return numbers[start:end].view(like.shape).to(like)
