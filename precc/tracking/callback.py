"""What wants to see a training: each row of its history, its figures now and then, its reports."""

from precc.history import HistoryRow
from precc.plan import PrecisionPlan
from precc.report.precision_report import PrecisionReport
from precc.tracking.step_figures import StepFigures

__all__ = ["Callback"]


class Callback:
    """Base of what a `precc.TrainingLog` tells of a training; a subclass has the methods that it wants.

    They are called while a controller decides: look, and change nothing. What one raises is a `PrecisionWarning`,
    and the training goes on.

    >>> class Levels(Callback):
    ...     def on_row(self, row, plan):
    ...         print(row.step, row.event, row.level)
    """

    def on_row(self, row: HistoryRow, plan: PrecisionPlan | None) -> None:
        """A controller decided, or `TrainingLog.step` noted a loss; with the plan after it, where it is known."""

    def on_figures(self, figures: StepFigures, step: int) -> None:
        """What the net computes in now, and how large its weights and gradients are."""

    def on_report(self, report: PrecisionReport, step: int) -> None:
        """A report was given to `precc.TrainingLog.report`."""

    def on_close(self, *, failed: bool) -> None:
        """There will be no more; `failed` says that an error ended the training."""
