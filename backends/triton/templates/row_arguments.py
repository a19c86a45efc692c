"""What kernels are given of a live row: where its numbers are, and where its largest magnitude is noted."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from precc.backends.triton.emit.amax_record import amax_argument
from precc.backends.triton.emit.live_numbers import live_argument
from precc.backends.triton.kernel_source import Argument
from precc.backends.triton.program import LiveRow

__all__ = ["RowArguments"]


@dataclass(frozen=True, slots=True)
class RowArguments:
    """The names of the two arguments; empty where there is none."""

    live: str
    amax: str

    @classmethod
    def of(cls, prefix: str, arguments: Iterable[Argument]) -> "RowArguments":
        """Those with a prefix, among the arguments of kernels."""
        names = {own.name for own in arguments}
        live, amax = live_argument(prefix).name, amax_argument(prefix).name
        return cls(live if live in names else "", amax if amax in names else "")

    def give(self, given: dict[str, Any], row: LiveRow, device: torch.device) -> None:
        """Put them to other arguments, by name."""
        if self.live:
            given[self.live] = row.on(device)
        if self.amax:
            given[self.amax] = row.amax
