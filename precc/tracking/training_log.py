"""TrainingLog: a training shown to experiment trackers and callbacks as it goes."""

from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any
from weakref import finalize, ref

from torch import Tensor

from precc.checked_net import checked_net
from precc.control.ranks import Ranks
from precc.errors import ControllerError
from precc.history import HistoryRow
from precc.module import PrecisionModule, session_of
from precc.report.precision_report import PrecisionReport
from precc.session import Session
from precc.tracking.callback import Callback
from precc.tracking.guarded import Guarded
from precc.tracking.net_formats import NetFormats
from precc.tracking.sink import Sink
from precc.tracking.sink_callback import SinkCallback
from precc.tracking.step_figures import StepFigures
from precc.warn_caller import warn_caller

__all__ = ["TrainingLog"]


class TrainingLog:
    """Shows each row of ``net.history`` to trackers and callbacks, and every so many steps the figures of the net.

    It changes nothing in a training, and none of them can end it: see `precc.tracking.guarded.Guarded`. Where
    ``torch.distributed`` is initialised, the first rank writes, and on the others nothing is opened or told; of
    sharded tensors the magnitudes are those of its part. It is open until `close`, the end of its ``with``, of the
    net, or of the process, whoever keeps it.

    Args:
        net: made by `precc.compile`.
        to: sinks, such as `precc.TensorBoard`, and `precc.Callback`s.
        every: steps between two figures, of `step`.
        magnitudes: whether figures have the magnitudes of weights and gradients, which reads them all.

    Raises:
        CaptureError: the net is not compiled by precc.
        ControllerError: one is no sink or callback, or `every` is no whole number from 1 on.
        Exception: whatever a tracker raises that cannot be opened.

    >>> import precc, torch
    >>> net = precc.compile(torch.nn.Linear(4, 2), policy="e4m3", backend="reference")
    >>> class Losses(Callback):
    ...     def on_row(self, row, plan):
    ...         print(row.step, row.event, row.loss)
    >>> with TrainingLog(net, Losses(), every=2) as log:
    ...     for _ in range(4):
    ...         net(torch.ones(3, 4)).sum().backward()
    ...         log.step(0.5)
    2 step 0.5
    4 step 0.5
    """

    def __init__(self, net: PrecisionModule, *to: Sink | Callback, every: int = 100, magnitudes: bool = True) -> None:
        session = session_of(checked_net(net, type(self).__name__))
        history = session.history
        if type(every) is not int or every < 1:
            raise ControllerError(f"every is the number of steps between two figures, 1 or more, not {every!r}")
        callbacks = [own if isinstance(own, Callback) else SinkCallback(_checked(own), history) for own in to]
        #: Calls of `step` so far.
        self.steps = 0
        self.every = every
        self._magnitudes = magnitudes
        self._session = ref(session)  # that of copies of the net too
        self._history = history
        self._formats: NetFormats | None = None
        self._told_of_figures = False  # that they could not be made
        self._told: list[Guarded] = []
        if Ranks.present().decides:
            _open([own.sink for own in callbacks if isinstance(own, SinkCallback)])
            self._told = [Guarded(own, _name(own)) for own in callbacks]
        history.watch(self._see)
        self._at_end = finalize(session, self.close)  # keeps this log as long as the net

    def step(self, loss: Tensor | float | None = None) -> None:
        """Count a step: after the backward, before the gradients are cleared, with or without a controller.

        Every `every`-th notes a row ``step`` in the net's history, and tells the figures of the net. The loss is
        read, and its device waited for, in these alone.

        Args:
            loss: of the step.

        Raises:
            ControllerError: the loss is not one real number.
        """
        _check(loss)
        self.steps += 1
        session = self._session()
        if session is None or self.steps % self.every:
            return
        value = None if loss is None else float(loss.detach() if isinstance(loss, Tensor) else loss)
        name = type(self).__name__
        self._history.note(step=self.steps, controller=name, event="step", plan=session.plan, loss=value)
        figures = self._figures(session) if self._told else None
        if figures is not None:
            self._tell_all(lambda own: own.on_figures(figures, self.steps))

    def report(self, report: PrecisionReport) -> None:
        """Log a report of the net: ``log.report(net.report())``."""
        self._tell_all(lambda own: own.on_report(report, self.steps))

    def close(self, *, failed: bool = False) -> None:
        """Tell no more, and close the trackers; a second call does nothing.

        Args:
            failed: whether an error ended the training, as trackers show it.
        """
        self._at_end.detach()
        self._history.unwatch(self._see)
        told, self._told = self._told, []
        for own in told:
            own.close(failed=failed)

    @property
    def lost(self) -> dict[str, int]:
        """Rows, figures and reports that each tracker or callback has missed so far, by its name."""
        return {own.name: own.lost for own in self._told if own.lost}

    def state_dict(self) -> dict[str, Any]:
        """The number of steps; rows are in the net's precision_state."""
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on counting.

        Raises:
            ControllerError: it is no state of a TrainingLog.
        """
        steps = state.get("steps") if isinstance(state, dict) and set(state) == {"steps"} else None
        if type(steps) is not int or steps < 0:
            raise ControllerError(f"no state of a {type(self).__name__}, which has its steps: {state!r:.80}")
        self.steps = steps

    def __enter__(self) -> "TrainingLog":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(failed=kind is not None)

    def _see(self, row: HistoryRow) -> None:
        plan = None if row.plan is None else self._history.plans[row.plan]
        self._tell_all(lambda own: own.on_row(row, plan))

    def _figures(self, session: Session) -> StepFigures | None:
        """None where they cannot be made, as of tensors of a class of the user: told once, and the training goes on."""
        try:
            return StepFigures.of(session, self._formats_of(session), magnitudes=self._magnitudes)
        except Exception as error:  # of whatever kind: a log ends no training
            if not self._told_of_figures:
                self._told_of_figures = True
                warn_caller(
                    f"the figures of step {self.steps} could not be made ({type(error).__name__}: {error}): the "
                    f"training goes on without them; {type(self).__name__}(..., magnitudes=False) reads no tensors"
                )
            return None

    def _formats_of(self, session: Session) -> NetFormats:
        if self._formats is None or self._formats.captures != session.graphs.count:
            self._formats = NetFormats.of(session.graphs)
        return self._formats

    def _tell_all(self, what: Callable[[Callback], None]) -> None:
        for own in self._told:
            own.tell(what)


def _check(loss: Any) -> None:
    if isinstance(loss, Tensor):
        if loss.numel() != 1 or loss.is_complex():
            raise ControllerError(
                f"the loss of a step is one real number, not a tensor of shape {tuple(loss.shape)} in {loss.dtype}"
            )
    elif loss is not None and not isinstance(loss, Real):
        raise ControllerError(f"the loss of a step is one real number, not {loss!r:.80}")


def _checked(sink: Any) -> Sink:
    if isinstance(sink, type) or not isinstance(sink, Sink):
        raise ControllerError(
            f"a TrainingLog writes to sinks, such as precc.TensorBoard('runs'), and instances of precc.Callback, "
            f"not {sink!r:.80}"
        )
    return sink


def _open(sinks: Sequence[Sink]) -> None:
    """All of them or, where one raises, none."""
    for number, own in enumerate(sinks):
        try:
            own.open()
        except BaseException:
            for other in sinks[:number]:
                other.close(failed=True)
            raise


def _name(callback: Callback) -> str:
    return type(callback.sink if isinstance(callback, SinkCallback) else callback).__name__
