"""One rounding of the exported graph, as those who write nodes for it need it."""

from dataclasses import dataclass

from precc.errors import BackendError
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

    @property
    def problem(self) -> str:
        """Why no ONNX op computes it, in whatever flavor; empty if one may."""
        if self.precision.transform is not None:
            return f"no ONNX op is the transform {self.precision.transform.value!r}"
        if self.row.lacks_history:
            return "its scale comes from a history that has no record yet: run the net once, or give the scale"
        return ""

    def refused(self, problem: str, way_out: str = "") -> BackendError:
        """The error that names the slot, a problem, and the way out."""
        return BackendError(f"slot {self.slot!r}: {problem}{'; ' if way_out else ''}{way_out}")
