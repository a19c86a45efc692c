"""Which elements condition numbers are computed of: a sample that is spread evenly, the same in each run."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

__all__ = ["Sampler"]

#: A row, a channel or an image is computed as a whole; so many terms are read for each sample, if there is a choice.
_TERMS_A_SAMPLE = 16

#: At least so many rows are taken, however long they are.
_LEAST_ROWS = 2


@dataclass(frozen=True, slots=True)
class Sampler:
    """Chooses elements by numbers of its own: torch's generators are left alone.

    Args:
        samples: so many elements of each result at most, where elements can be had one by one.
        seed: of the choice.
    """

    samples: int
    seed: int
    _known: dict[tuple[int, int], Tensor] = field(default_factory=dict)

    def positions(self, count: int, most: int) -> Tensor:
        """Numbers below `count` in order: all, or one from each of `most` parts of about equal length."""
        key = (count, min(count, max(most, 1)))
        if key not in self._known:
            self._known[key] = self._spread(*key)
        return self._known[key]

    def _spread(self, count: int, chosen: int) -> Tensor:
        if chosen == count:
            return torch.arange(count)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + count * 8_191 + chosen)
        places = torch.arange(chosen) + torch.rand(chosen, generator=generator, dtype=torch.float64)
        return (places * (count / chosen)).long().clamp_max(count - 1)

    def raw(self, x: Tensor, shape: Sequence[int] | None = None) -> Tensor:
        """Elements of a tensor, broadcast to the shape first: the same places of all tensors of one shape."""
        x = x if shape is None or x.shape == torch.Size(shape) else x.expand(shape)
        if x.numel() <= self.samples:
            return x.reshape(-1)
        return torch.take(x, self.positions(x.numel(), self.samples).to(x.device))

    def take(self, x: Tensor, shape: Sequence[int] | None = None) -> Tensor:
        """The same in float64, where they are floating-point numbers."""
        found = self.raw(x, shape)
        return found.double() if found.is_floating_point() else found

    def rows_of(self, count: int, terms: int) -> Tensor:
        """Which of so many rows are taken that have so many terms each."""
        most = max(_LEAST_ROWS, min(self.samples, _TERMS_A_SAMPLE * self.samples // max(terms, 1)))
        return self.positions(count, most)

    def columns_of(self, lines: Tensor) -> Tensor:
        """Which elements of each line are taken, if not all are needed."""
        few = self.positions(lines.shape[1], self.samples // max(1, len(lines)))
        return few.to(lines.device)

    def lines(self, x: Tensor, dims: Sequence[int], like: int | None = None) -> Tensor:
        """Lines of a tensor along these dimensions, whole, as ``[lines, terms]``, at least in float32.

        Args:
            x: the tensor.
            dims: the dimensions.
            like: choose the same lines as of a tensor with so many terms in each.
        """
        along = [dim % x.dim() for dim in dims] if x.dim() else []
        kept = [dim for dim in range(x.dim()) if dim not in along]
        shape = [x.shape[dim] for dim in kept]
        count, terms = math.prod(shape), math.prod(x.shape[dim] for dim in along)
        x = x.permute([*kept, *along])  # of a single number there are none
        chosen = self.rows_of(count, terms if like is None else like)
        if len(chosen) < count and (len(kept) == 1 or x.is_contiguous()):
            x = x.reshape(count, *x.shape[len(kept) :]).index_select(0, chosen.to(x.device))
        elif len(chosen) < count:
            x = x[torch.unravel_index(chosen.to(x.device), shape)]
        x = x.reshape(len(chosen), terms)
        return x if x.dtype.itemsize > 2 else x.float()
