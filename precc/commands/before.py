"""What a batch and a forward may change before a step changes the net, to be put back after an error."""

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from precc.control.snapshot import Snapshot

__all__ = ["Before"]


@dataclass(frozen=True, slots=True)
class Before:
    """States of the random generators of torch, numpy and python, and of a net's buffers."""

    snapshot: Snapshot
    numpys: Any
    pythons: Any

    @classmethod
    def of(cls, net: nn.Module) -> "Before":
        """As they are now."""
        return cls(Snapshot.of(net), np.random.get_state(), random.getstate())

    def restore(self, net: nn.Module) -> None:
        """Put them back."""
        self.snapshot.restore(net)
        np.random.set_state(self.numpys)
        random.setstate(self.pythons)
