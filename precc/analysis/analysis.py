"""The analysis of one step of a net: what each slot is like, and what a plan would do."""

import hashlib
import math
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from precc.accumulation.accumulator import Accumulator
from precc.analysis.analysis_file import read_analysis, written_analysis
from precc.analysis.batch_slice import BatchSlice
from precc.analysis.calibration import Calibration, group_of
from precc.analysis.error_estimate import ErrorEstimate
from precc.analysis.error_gains import MeanSquare
from precc.analysis.findings import Findings
from precc.analysis.forward_errors import NodeError
from precc.analysis.measurement import Draws, StepMeasurement
from precc.analysis.prediction import Prediction
from precc.analysis.records import SlotRecord
from precc.analysis.slot_error import SlotError
from precc.analysis.traced_step import TracedStep
from precc.errors import AnalysisError, PlanError
from precc.files import write_whole
from precc.plan import PrecisionPlan
from precc.precision import Precision
from precc.slots import names_update
from precc.source import Source

__all__ = ["Analysis"]

_NO_RESULTS = (
    "the plan rounds results, and the analysis has none: net.analyze(..., options=AnalysisOptions(results=True))"
)
_Made = TypeVar("_Made")

#: Things that are kept beside a new one: those made first go.
_KEPT = 32


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Analysis:
    """What is known of a step from one run of the passes. Made by ``net.analyze``.

    Args:
        title: name of the net.
        records: of each slot, by name.
        findings: of the passes.
        seconds: that the passes took.
        batch: which examples of the batch were looked at; all errors are those of a step with them.
        calibration: measured over predicted, shared with the net.
        measurement: runs the step; None in an analysis that was loaded.
    """

    title: str
    records: Mapping[str, SlotRecord]
    findings: Findings
    seconds: float
    batch: BatchSlice
    calibration: Calibration = field(default_factory=Calibration)
    measurement: StepMeasurement | None = None
    _prediction: Prediction = field(init=False)
    _made: dict[Any, Any] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        prediction = Prediction(self.findings.sensitivities, self.findings.gains, self.calibration)
        object.__setattr__(self, "_prediction", prediction)

    def __repr__(self) -> str:
        found = f"{self.batch}, loss {self.loss:.4g}, gradient {self.gradient_norm:.4g}"
        return f"<analysis of {self.title}: {found}, {len(self.operands)} slots of operands, {self.seconds:.1f} s>"

    @property
    def loss(self) -> float:
        """The loss of the step, without rounding.

        Where the net was analysed without a loss, and has none of its own, it is ``<gradient, output>``, with the
        gradient that the last backward had for the output: no loss, but it has the same gradients.
        """
        return self.findings.sensitivities.loss

    @property
    def gradient_norm(self) -> float:
        """The norm of the gradient of all parameters, without rounding: the 2-norm, or that of the metric."""
        return self.findings.sensitivities.gradient_norm

    @property
    def step(self) -> TracedStep:
        """The graph of the step, with what is known of each node in its ``node.meta["precc"]``.

        That is a `SlotRecord` at the rounding node of a slot, and a `NodeRecord` at every other node that computes real
        numbers.

        Raises:
            AnalysisError: the analysis was loaded from a file.
        """
        return self._measurement.step

    @property
    def _measurement(self) -> StepMeasurement:
        if self.measurement is None:
            raise AnalysisError("an analysis from a file has no step to run: call net.analyze again")
        return self.measurement

    def predict(self, plan: PrecisionPlan) -> ErrorEstimate:
        """The error of loss and gradient under a plan, as an estimate; nothing is run.

        It is that of the step without rounding elsewhere, to second order in the loss, to first order in the gradient
        with the elements that flip at rectifiers and max-pooling, times the record of calibrations. A delayed scale
        counts as that of the tensor itself. What passes an operator without a derivative is left out, and its slots are
        in the estimate's ``unknown``.

        Raises:
            PlanError: not a plan, or it names a slot that the net does not have.
            AnalysisError: the analysis has no scales for it.
            UnsupportedError: it has a transform.
        """
        self._check(plan)
        return self._prediction.of(plan)

    def measure(self, plan: PrecisionPlan, repetitions: int = 10, *, seed: int = 0) -> ErrorEstimate:
        """The error of loss and gradient under a plan, observed in independent draws.

        Each draw runs the step twice, without rounding and under the plan, with the values of rounded slots displaced
        alike within one quantum; see `precc.analysis.measurement`. Equal values are displaced apart: what their equal
        errors do together is not seen. A plan that rounds sums takes many times as long, for each addition is emulated.
        The net, its buffers and torch's generators stay as they are.

        Raises:
            PlanError: not a plan, or it names a slot that the net does not have.
            AnalysisError: fewer than 2 repetitions, a parameter has changed since the analysis, or the analysis was
                loaded from a file.
        """
        return self.draws(plan, repetitions, seed=seed).estimate

    def draws(self, plan: PrecisionPlan, repetitions: int = 10, *, seed: int = 0) -> Draws:
        """What `measure` sums up: the errors of each draw.

        Raises:
            PlanError, AnalysisError: as `measure`.
        """
        self._check(plan)
        if type(seed) is not int or not 0 <= seed < 2**63:
            raise AnalysisError(f"seed is a whole number from 0 to 2**63 - 1, not {seed!r}")
        if type(repetitions) is not int or repetitions < 2:
            raise AnalysisError(f"repetitions is a whole number of at least 2, not {repetitions!r}")
        return self._measurement.draws(plan, repetitions, seed)

    def calibrate(self, plan: PrecisionPlan, repetitions: int = 10, *, seed: int = 0) -> Mapping[str, float]:
        """Measure each group of slots by itself under a plan, and keep the ratios to the predictions.

        A group is the slots of one operand of one role, such as ``fprop.weight``. The record is the net's
        (``net.precision_state()["calibration"]``), a running mean, and corrects predictions from now on.

        Returns:
            Measured over predicted norm of the gradient's error by group, before this correction. Groups with slots
            of which not all is known have none, and are not corrected.

        Raises:
            PlanError, AnalysisError: as `measure`.
        """
        self._check(plan)
        ratios = {}
        names = (*self.operands, *self.results)
        for group in sorted({group_of(name) for name in names}):
            own = {name: plan.precision(name) for name in names if group_of(name) == group}
            alone = PrecisionPlan("float64", own)
            plain = Prediction(self.findings.sensitivities, self.findings.gains, Calibration()).of(alone)
            measured = self.measure(alone, repetitions, seed=seed)
            ratio = _ratio(measured.gradient, plain.gradient) if not plain.unknown.gradient else None
            loss = _ratio(measured.loss, plain.loss) if not plain.unknown.loss else None
            self.calibration.note(group, loss=loss, gradient=ratio)
            if ratio is not None:
                ratios[group] = ratio
        return ratios

    @property
    def operands(self) -> tuple[str, ...]:
        """Names of the slots of operands, in the order of the graph."""
        known = (name for name, own in self.records.items() if own.sensitivity is not None and not own.slot.is_result)
        return tuple(known)

    @property
    def results(self) -> tuple[str, ...]:
        """Names of the slots of results; none unless they were asked for, ``AnalysisOptions(results=True)``."""
        return tuple(name for name, own in self.records.items() if own.slot.is_result)

    @property
    def multiply_adds(self) -> dict[str, int]:
        """Multiply-adds of the product that each operand's slot feeds."""
        return {name: self.records[name].multiply_adds for name in self.operands}

    @property
    def sources(self) -> Mapping[str, Source]:
        """The results that operands show, by name of the operand's slot."""
        return self.once("sources", self._sources)

    def _sources(self) -> dict[str, Source]:
        slots = (slot for sample in self.findings.sensitivities.samples for slot in sample.slots)
        return {slot.name: slot.source for slot in slots if slot.source is not None}

    def contributions(self, plan: PrecisionPlan) -> dict[str, ErrorEstimate]:
        """The error of a plan if one slot alone rounds, by name of the slot; those that round nothing are left out.

        Raises:
            PlanError, AnalysisError, UnsupportedError: as `predict`.
        """
        self._check(plan)
        found = {}
        for name, record in self.records.items():
            if record.sensitivity is None:
                alone = PrecisionPlan("float64", accumulators={name: plan.accumulator(name)})
            else:
                alone = PrecisionPlan("float64", {name: plan.precision(name)})
            estimate = self._prediction.of(alone)
            if estimate.gradient or estimate.loss or estimate.loss_mean or estimate.unknown:
                found[name] = estimate
        return found

    def alone(self, slot: str, precision: Precision) -> SlotError:
        """What one precision in one slot of an operand does to the step by itself; found once.

        Raises:
            AnalysisError, UnsupportedError: as `predict`.
        """
        return self._prediction.alone(slot, precision)

    def alone_in_sums(self, accumulator: str, choice: Accumulator | None) -> SlotError:
        """What one accumulator does to the step by itself, named by its slot.

        Raises:
            AnalysisError: the analysis kept no sums.
        """
        return self._prediction.alone_in_sums(accumulator, choice)

    def flip_slopes(self, squares: Mapping[str, float]) -> dict[str, float]:
        """By slot: how much of the gradient's error comes from elements that flip, by its mean square error.

        Args:
            squares: mean square errors by slot, as of `alone`, under some plan: these times the slopes add up to what
                flips under it, relative to the square of the gradient's norm.
        """
        return self._prediction.flipping.slopes({name: MeanSquare(own, own) for name, own in squares.items()})

    def once(self, key: Hashable, make: Callable[[], _Made]) -> _Made:
        """What is made of the analysis and the record of calibrations as it stands, made once for each of some keys.

        The key says all else that it is made of.
        """
        own = (key, self.calibration.state)
        if own not in self._made:
            stale = [other for other in self._made if other[1] != own[1]]
            for other in [*stale, *list(self._made)[: max(0, len(self._made) - _KEPT)]]:
                self._made.pop(other, None)
            self._made[own] = make()
        found: _Made = self._made[own]
        return found

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits that differ from those of other steps."""
        seen = [(name, own.value_range.elements, own.value_range.amax) for name, own in self.records.items()]
        return hashlib.sha256(repr((self.title, self.loss, self.gradient_norm, seen)).encode()).hexdigest()[:12]

    def forward_errors(self, plan: PrecisionPlan) -> dict[str, NodeError]:
        """Relative errors of the values of each node of the forward part, by name of the node in the graph of the step.

        The worst case and the probabilistic one grow with every layer, and say little beyond a few.

        Raises:
            PlanError, AnalysisError, UnsupportedError: as `predict`.
        """
        self._check(plan)
        return self._prediction.forward_errors(plan, self.findings.conditions)

    def refresh_interval(self, step_seconds: float, share: float = 0.02) -> int:
        """Steps from one analysis to the next, so that analyses take at most this share of the time.

        An analysis of 3 s beside steps of 0.1 s takes 2% of the time every 1,500 steps.

        Raises:
            AnalysisError: a duration that is not positive, or a share outside of (0, 1].
        """
        numbers = isinstance(step_seconds, (int, float)) and isinstance(share, (int, float))
        if not numbers or not step_seconds * share > 1e-300 or not 0 < share <= 1:
            raise AnalysisError(f"a step of {step_seconds!r} s and a share of {share!r} give no interval")
        return max(1, math.ceil(self.seconds / (step_seconds * share)))

    def save(self, path: str | Path) -> None:
        """Write all but the step itself to a file, whole or not at all: `predict` works without the net.

        Raises:
            OSError: the file cannot be written.
        """
        write_whole(
            Path(path),
            written_analysis(self.title, self.records, self.findings, self.seconds, self.batch, self.calibration),
        )

    @classmethod
    def load(cls, path: str | Path) -> "Analysis":
        """The analysis that `save` wrote.

        Raises:
            AnalysisError: the file holds none.
            OSError: it cannot be read.
        """
        return cls(*read_analysis(Path(path)))

    def _check(self, plan: PrecisionPlan) -> None:
        if not isinstance(plan, PrecisionPlan):
            named = isinstance(plan, (str, Precision))
            hint = "; for one precision everywhere, precc.PrecisionPlan(...)" if named else ""
            hint = "; for a policy, policy.assign(analysis)" if hasattr(plan, "assign") else hint
            hint = "; that of a net is net.plan" if isinstance(getattr(plan, "plan", None), PrecisionPlan) else hint
            raise PlanError(f"not a plan: {plan!r:.40}{hint}")
        if plan.rounds_results and not self.results:
            raise AnalysisError(_NO_RESULTS)
        named = {name for name in (*plan.slots, *plan.accumulators) if not names_update(name)}
        strange = sorted(named - set(self.records))
        if strange:
            near = get_close_matches(strange[0], self.records, n=1)
            hint = f": did you mean {near[0]!r}?" if near else ""
            raise PlanError(f"the plan names {strange[0]!r}, a slot that {self.title} does not have{hint}")


def _ratio(measured: float, predicted: float) -> float | None:
    return measured / predicted if predicted > 0 and measured > 0 and math.isfinite(measured / predicted) else None
