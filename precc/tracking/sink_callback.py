"""Rows, figures and reports of a training as what experiment trackers take."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import fields

from precc.history import TEXT_COLUMNS, History, HistoryRow
from precc.plan import PrecisionPlan
from precc.report.precision_report import PrecisionReport
from precc.tracking.callback import Callback
from precc.tracking.drawing import can_draw, drawn_film, drawn_map
from precc.tracking.magnitudes import Magnitudes
from precc.tracking.pictures import film_picture, legend, map_picture
from precc.tracking.sink import Sink
from precc.tracking.step_figures import StepFigures

__all__ = ["SinkCallback"]

#: What of a row is no number to show.
_TEXTS = {"step", *TEXT_COLUMNS}

#: Its numbers, which become scalars.
_NUMBERS = tuple(entry.name for entry in fields(HistoryRow) if entry.name not in _TEXTS)

_LINES = 50  # of a plan's changes that a text has

_BEFORE = PrecisionPlan("float32")  # in force before any was noted


class SinkCallback(Callback):
    """Writes all that a log tells to one tracker. Pictures have names and steps where there is pillow to draw them.

    Args:
        sink: that is written to.
        history: whose rows are told.
    """

    def __init__(self, sink: Sink, history: History) -> None:
        self.sink = sink
        self._history = history
        self._events: Counter[tuple[str, str]] = Counter()
        self._counted = 0  # rows of the history
        self._legend = ""

    def on_row(self, row: HistoryRow, plan: PrecisionPlan | None) -> None:
        """Its numbers, how often there was such an event, and what a new plan changes."""
        self._count()
        prefix = f"precc/{row.controller}"
        for what in _NUMBERS:
            if (value := getattr(row, what)) is not None:
                self.sink.scalar(f"{prefix}/{what}", float(value), row.step)
        event = row.controller, row.event
        self.sink.scalar(f"{prefix}/events/{row.event}", float(self._events[event]), row.step)
        if plan is not None and plan != (before := self._plan_before()):
            self.sink.text("precc/plan", _change(row, before, plan), row.step)
        self.sink.flush()

    def on_figures(self, figures: StepFigures, step: int) -> None:
        """Shares, bits, magnitudes, pictures."""
        for name, share in figures.work.items():
            self.sink.scalar(f"precc/work/{name}", share, step)
        for layer, bits in figures.bits.items():
            self.sink.scalar(f"precc/bits/{layer or '(root)'}", bits, step)
        if figures.average_bits is not None:
            self.sink.scalar("precc/average_bits", figures.average_bits, step)
        self._magnitudes("weights", figures.weights, step)
        self._magnitudes("gradients", figures.gradients, step)
        self._pictures(figures, step)
        self.sink.flush()

    def on_report(self, report: PrecisionReport, step: int) -> None:
        """The whole as text; average bits, cost and errors of the step as scalars."""
        self.sink.text("precc/report", _preformatted(str(report)), step)
        if report.cost is not None:
            self.sink.scalar("precc/report/cost", report.cost.value, step)
        figures = () if report.step is None else ("predicted", "measured")
        for kind in figures:
            if (own := getattr(report.step, kind)) is not None:
                self.sink.scalar(f"precc/report/{kind}/gradient", own.gradient, step)
                self.sink.scalar(f"precc/report/{kind}/loss", own.loss, step)
        self.sink.flush()

    def on_close(self, *, failed: bool) -> None:
        """The tracker is closed."""
        self.sink.close(failed=failed)

    def _count(self) -> None:
        """All rows up to the last, again where another history was loaded in the meantime."""
        if self._counted + 1 != len(self._history):
            self._events = Counter((own.controller, own.event) for own in self._history)
        else:
            own = self._history[-1]
            self._events[own.controller, own.event] += 1
        self._counted = len(self._history)

    def _plan_before(self) -> PrecisionPlan:
        """Of the last row but one that names a plan."""
        for position in range(len(self._history) - 2, -1, -1):
            if (digest := self._history[position].plan) is not None:
                return self._history.plans[digest]
        return _BEFORE

    def _magnitudes(self, what: str, found: Mapping[str, Magnitudes], step: int) -> None:
        for name, own in found.items():
            if own.counts:
                self.sink.histogram(f"precc/{what}/{name}", own.edges, own.counts, step)
        if elements := sum(own.elements for own in found.values()):
            zeros = sum(own.zeros for own in found.values())
            self.sink.scalar(f"precc/zeros/{what}", zeros / elements, step)
            self.sink.scalar(f"precc/nonfinite/{what}", sum(own.nonfinite for own in found.values()), step)
        bad = [f"- {name}: {own.nonfinite} of {own.elements}" for name, own in found.items() if own.nonfinite]
        if bad:
            self.sink.text(f"precc/nonfinite/{what}", "\n".join(bad), step)

    def _pictures(self, figures: StepFigures, step: int) -> None:
        of_map, of_film = (drawn_map, drawn_film) if can_draw() else (map_picture, film_picture)
        for name, picture in (("map", of_map(figures.present)), ("film", of_film(figures.film))):
            if picture is not None:
                self.sink.image(f"precc/{name}", picture, step)
        text = legend([figures.present, figures.film])
        if figures.present.ops and text != self._legend:
            self.sink.text("precc/legend", text, step)
            self._legend = text


def _change(row: HistoryRow, before: PrecisionPlan, after: PrecisionPlan) -> str:
    changes = [str(own) for own in before.diff(after)]
    more = [f"and {len(changes) - _LINES} more"] * (len(changes) > _LINES)
    bits = "" if row.average_bits is None else f"average bits {row.average_bits:g}"
    why = ": ".join(own for own in (f"{row.controller} {row.event}", row.reason) if own)
    return _preformatted("\n".join(filter(None, [why, bits, *changes[:_LINES], *more])))


def _preformatted(text: str) -> str:
    """As Markdown that shows it as it is."""
    return "\n".join(f"    {line}" for line in text.splitlines())
