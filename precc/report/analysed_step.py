"""The step that a report's errors are of, and how far its predictions are to be believed."""

from dataclasses import dataclass

from precc.report.error_figures import ErrorFigures

__all__ = ["AnalysedStep", "GroupCalibration"]


@dataclass(frozen=True, slots=True)
class GroupCalibration:
    """What measurements said of predictions for the slots of one operand of one role.

    Args:
        group: such as ``fprop.weight``.
        count: how often it was measured.
        loss: measured over predicted deviation of the loss.
        gradient: measured over predicted error of the gradient.
    """

    group: str
    count: int
    loss: float
    gradient: float


@dataclass(frozen=True, slots=True)
class AnalysedStep:
    """One step that was analysed, and what the whole plan does to it.

    Args:
        loss: of the step, without rounding.
        gradient_norm: likewise.
        batch: which examples were looked at, as text.
        digest: of the analysis.
        predicted: error of the plan; None where it cannot be predicted.
        measured: the same, observed; None if it was not.
        draws: of the measurement; 0 if there is none.
        rank_correlation: Spearman's, of predicted and measured errors of the gradient over what was measured by itself;
            None with fewer than three.
        calibration: that predictions are corrected by.
    """

    loss: float
    gradient_norm: float
    batch: str
    digest: str
    predicted: ErrorFigures | None = None
    measured: ErrorFigures | None = None
    draws: int = 0
    rank_correlation: float | None = None
    calibration: tuple[GroupCalibration, ...] = ()
