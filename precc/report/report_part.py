"""What a report that shows some ops alone still says of the whole."""

from dataclasses import dataclass

__all__ = ["ReportPart"]


@dataclass(frozen=True, slots=True)
class ReportPart:
    """The whole of which a report shows a part.

    Args:
        ops: how many it has.
        error: root of the sum of the squared errors of the gradient that its ops are predicted to make alone.
    """

    ops: int
    error: float
