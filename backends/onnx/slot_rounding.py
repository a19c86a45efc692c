"""One rounding of the exported graph, as those who write nodes for it need it."""

from dataclasses import dataclass

from precc.precision import Precision
from precc.rounding import Row

__all__ = ["SlotRounding"]


@dataclass(frozen=True, slots=True)
class SlotRounding:
    """What becomes of the values of a slot.

    Args:
        slot: its name.
        precision: of the slot; a delayed scale is a static one by now.
        axis: the contracted dimension, from 0, for scalings that name none.
        channel: the dimension of channels, likewise.
    """

    slot: str
    precision: Precision
    axis: int
    channel: int

    @property
    def row(self) -> Row:
        """The numbers that precc's own kernels would read."""
        return self.precision.row(axis=self.axis, channel=self.channel)
