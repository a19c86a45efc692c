"""What an analysis keeps of the values of slots: a sample, with the adjoints of loss and gradient there.

From it follows the error of any precision in these slots, without running the step again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from precc.analysis.rounding_error import ScaleKey

__all__ = ["SlotAdjoints", "ValueSample"]


@dataclass(frozen=True, slots=True, eq=False)
class SlotAdjoints:
    """Of one slot, at the sampled values.

    Args:
        name: of the slot.
        axis: its contracted dimension.
        channel: its dimension of channels.
        loss: derivative of the loss with respect to each value, [samples]; None: the loss does not depend on the slot.
        gradient: of ``<gradient, r>`` for each probe r, [probes, samples].
        curvature: second derivative of the loss with respect to each value, estimated, [samples]; None as above.
        amax: largest magnitude of what shares a scale with each value, where scales are not the tensor's.
    """

    name: str
    axis: int
    channel: int
    loss: Tensor | None
    gradient: Tensor
    curvature: Tensor | None
    amax: Mapping[ScaleKey, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class ValueSample:
    """Values that one or more slots read, drawn uniformly.

    Args:
        elements: how many values there are.
        values: those drawn, [samples]; all of them if they are few.
        amax: the largest magnitude of all.
        slots: that read them.
    """

    elements: int
    values: Tensor
    amax: Tensor
    slots: tuple[SlotAdjoints, ...]

    @property
    def weight(self) -> float:
        """How many values each of those drawn stands for."""
        return self.elements / max(len(self.values), 1)


def drawn_positions(elements: int, samples: int, seed: int, device: torch.device) -> Tensor:
    """Numbers of the values to draw, ascending: one from each of as many equal parts; all if they are few."""
    if elements <= 2 * samples:
        return torch.arange(elements, device=device)
    generator = torch.Generator().manual_seed(seed & (2**63 - 1))
    parts = torch.arange(samples, dtype=torch.float64) + torch.rand(samples, generator=generator, dtype=torch.float64)
    return (parts * (elements / samples)).long().clamp(max=elements - 1).to(device)
