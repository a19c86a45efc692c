"""PrecisionModule: the user's model, computing under a precision plan."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from precc.analysis.analysis import Analysis
from precc.analysis.analysis_options import AnalysisOptions
from precc.analysis.explanation import explained
from precc.analysis.run_analysis import run_analysis
from precc.cost.cost_model import CostModel
from precc.errors import AnalysisError, CaptureError, PlanError
from precc.formats import ALIASES, FORMATS
from precc.history import History
from precc.kernel_listing import KernelListing
from precc.net_kernels import kernels_of
from precc.plan import PrecisionPlan
from precc.precision_state import load_state, state_of
from precc.regions import check_regions, with_regions
from precc.report.build_report import ReportOptions, build_report
from precc.report.net_parts import NetFacts
from precc.report.precision_report import PrecisionReport
from precc.report.training_lines import training_lines
from precc.session import Session
from precc.shallow_clone import SharedClone, base_name, clone_as, plain
from precc.slots import update_slots

__all__ = ["PUBLIC_NAMES", "PrecisionModule", "original", "read_plan", "session_of", "wrap"]

#: The names that a compiled net has beside the model's own.
PUBLIC_NAMES = (
    "plan",
    "set_plan",
    "report",
    "compilations",
    "precision_state",
    "load_precision_state",
    "analyze",
    "explain",
    "history",
    "kernels",
)

_SESSION = "_precc_session"
_USUAL = AnalysisOptions()


class PrecisionModule(SharedClone):
    """A model whose products are computed in the formats of a plan. Made by `precc.compile`.

    It is also an instance of the model's class, and shares the model's parameters, buffers and submodules, under
    the same names. The model itself computes as before. Call the net, not ``net.forward``, which is the model's own and
    rounds nothing. ``net.train()`` and ``net.eval()`` act on the shared submodules too.
    """

    _precc_session: Session

    @property
    def plan(self) -> PrecisionPlan:
        """The plan of the next forward, each slot known so far by name."""
        session = session_of(self)
        return session.plan.resolve(session.graphs.multiply_adds)

    def set_plan(self, plan: PrecisionPlan | str | Path, *, recompile: bool = False) -> None:
        """Compute under another plan, or a plan file, from the next forward on. A live net compiles nothing again.

        The net's rules hold over this plan, before those that it has itself. A backward runs under the plan of its
        forward. Formats, roundings, scalings and, in graphs that were built for
        them, accumulators change freely. Graphs are built for accumulators if the net's first plan, or one set before
        the first call, has any.

        Args:
            plan: the plan, or the path of its JSON file.
            recompile: allow to build the graphs again, at the next call, if the plan has accumulators and they were
                built without, or if they were built for one plan alone (``live=False``).

        Raises:
            PlanError: the file holds no plan, the plan names a slot that the net does not have, a rule of it decides
                none, or the graphs must be built again for it; the plan in force stays. Slots are known once a forward
                has recorded gradients: before, a wrong name is an error of that forward.
        """
        if type(recompile) is not bool:
            raise PlanError(f"recompile is True or False, not {recompile!r}")
        session_of(self).use(read_plan(plan), self, recompile=recompile)

    @property
    def compilations(self) -> int:
        """Graphs captured for calls of this net; a forward and its backward count once."""
        return session_of(self).graphs.count

    def report(
        self,
        analysis: Analysis | None = None,
        *,
        measure: int = 0,
        by: str = "op",
        against: PrecisionReport | PrecisionPlan | str | Path | None = None,
        cost: CostModel | None = None,
        choices: bool | None = None,
    ) -> PrecisionReport:
        """The precision report: formats, work, range, condition, errors, cost; what was compiled and what not rounded.

        It is a value: print it, save it (``report.save("report.html")``), sort it. What it does not know it says.

        Args:
            analysis: of a step, as ``net.analyze`` gives it; None: the net's last one, which cannot measure.
            measure: draws, at least 2, in which the plan as a whole and each op by itself are measured; 0: none.
            by: ``"op"``, or ``"slot"``, to measure each slot by itself too.
            against: to be seen beside this one: another report, the path of one in JSON, or a plan, whose report of
                the same step is made; the net's rules hold over it.
            cost: model; default: `precc.BitOps`.
            choices: whether to have what other formats would cost and do; default: of up to 250 slots.

        Raises:
            AnalysisError: what is no analysis or no number of draws, or an analysis that cannot measure.
            DataError, OSError: the other report cannot be read.
            PlanError: what is no report, no cost model; a plan that does not fit the net.
            UnsupportedError: the plan cannot be measured.
        """
        session = session_of(self)
        if isinstance(against, PrecisionPlan):
            session.graphs.check(against, session.rules, self)
            against = against.under(session.rules)
        options = ReportOptions(measure, by, against, cost, choices)
        return build_report(self._facts(), session.analysis if analysis is None else analysis, options)

    def _facts(self) -> NetFacts:
        session = session_of(self)
        return NetFacts(
            title=base_name(self),
            backend=session.options.backend.name,
            lacking=session.options.lacking,
            plan=session.plan,
            live=session.options.live,
            graphs=session.graphs.training_first,
            graph_breaks=session.graph_breaks,
            outside=session.graphs.outside(self) if session.graphs.known else [],
            executed=session.builds.tally.by_format,
            events=session.events,
            updates=update_slots(self),
            training=training_lines(session.plan, self, session.parts),
            history=session.history,
            largest=session.amax.largest,
        )

    @property
    def history(self) -> History:
        """What controllers decided while the net trained, step by step, with reasons and figures: a table."""
        return session_of(self).history

    def kernels(self) -> KernelListing:
        """The generated kernels that the net's graphs run by, with their sources, and what runs without one and why.

        Each graph says how it ran last: a plan that was set since shows after the next step.

        Raises:
            CaptureError: the net was not called yet.
            BackendError: its backend has no kernels of this kind.
        """
        return kernels_of(session_of(self), base_name(self))

    def precision_state(self) -> dict[str, Any]:
        """What precc knows beside the parameters, as plain data.

        ``plan`` is its JSON, or None if none was set, ``rules`` are the net's own, ``multiply_adds`` those executed by
        format, ``bits`` the sum that their average is of, ``events`` what controllers counted, ``history`` what they
        decided, and ``amax`` by slot the largest magnitudes that delayed scales come from, oldest first.
        """
        return state_of(session_of(self))

    def load_precision_state(self, state: dict[str, Any]) -> None:
        """Go on where a `precision_state` was taken, beside ``load_state_dict``.

        Rules of the state that the net does not have are added after the net's own.

        Raises:
            PlanError: it is not a precision_state, or not of a net with these slots, or its plan needs graphs with
                accumulators, which `set_plan` with recompile=True builds; nothing is changed.
        """
        load_state(session_of(self), self, state)

    def analyze(
        self,
        *inputs: Any,
        loss: Callable[[Any], Tensor] | None = None,
        options: AnalysisOptions = _USUAL,
        **named_inputs: Any,
    ) -> Analysis:
        """Analyse the training step that these inputs make: what rounding in each slot does to loss and gradient.

        The step is traced as one graph, without its regions' borders, and run a few times without any rounding, in the
        net's present mode. Nothing is compiled, and parameters, gradients, buffers and generators stay as they are.

        Args:
            inputs: as the net takes them.
            loss: of the net's output, one real number: ``lambda output: loss_fn(output, y)``. None: the ``loss`` in the
                model's output, or else the gradients that the last backward had for the output of the
                last call with inputs of these shapes. These stay fixed, so what errors of the output do to them is then
                no part of the estimate.
            options: how thoroughly.
            named_inputs: as the net takes them.

        Raises:
            AnalysisError: there is no loss, it is no real number, the step is not finite (the first node is named), or
                it is not one graph.
            UnsupportedError: a derivative is missing, and torch does not say of which operator; those that are known
                are constants to predictions, and in ``analysis.findings.unknown``.
            CaptureError, DeviceError: as for a call.
        """
        session = session_of(self)
        session.belongs_to(self)
        analysis: Analysis = _analyse_untraced(
            self,
            inputs,
            named_inputs,
            loss,
            title=base_name(self),
            compiled=session.options,
            options=options,
            calibration=session.calibration,
            tangents=session.tangents,
            plan=session.plan,
        )
        session.analysis = replace(analysis, measurement=None)  # or the net would keep the batch
        return analysis

    def explain(self, slot: str) -> str:
        """Why a slot has its format: range, condition, sensitivity, share of the error, cost, and what others would do.

        Of an accumulator it has no errors: ``analysis.contributions(plan)`` has them.

        Args:
            slot: its name, such as ``conv2/product/fprop.weight``, or in short ``conv2/fprop.weight``.

        Raises:
            AnalysisError: the net was not analysed yet.
            PlanError: it has no such slot.
        """
        session = session_of(self)
        if session.analysis is None:
            raise AnalysisError(f"{base_name(self)} was not analysed yet: call net.analyze(*inputs, loss=...) first")
        return explained(session.analysis, slot, session.plan)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_exporting():
            raise CaptureError("a compiled net cannot be traced by torch.export: use precc.export_onnx(net, ...)")
        return _run_untraced(self, args, kwargs)

    def __setstate__(self, state: Any) -> None:
        """Deep copies and pickles carry the plan and compile graphs of their own; a shallow copy shares all of it."""
        super().__setstate__(state)
        session_of(self).belongs_to(self)


#: Dynamo would trace the passes.
_analyse_untraced = torch.compiler.disable(run_analysis)


def _run(net: PrecisionModule, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    session = session_of(net)
    session.belongs_to(net)  # a copy.copy shares the session
    session.tangents.forget()
    if session.options.regions:
        check_regions(net, session)
        output = session.call_around(net, args, kwargs)
    else:
        output = session.call(net, args, kwargs)
    if session.options.live and torch.is_grad_enabled():
        session.tangents.follow(output)
    if torch.is_grad_enabled():
        session.parts.see_forward(net, session.plan)
        session.watched(args, kwargs, output)
    return output


#: Under a compiler of the user's the net runs as it is, by its own graphs, and is not traced a second time.
_run_untraced = torch.compiler.disable(_run)


def session_of(net: PrecisionModule) -> Session:
    """What precc keeps of a net.

    Raises:
        CaptureError: the net was made from another by a method of the model's class.
    """
    session: Session | None = net.__dict__.get(_SESSION)
    if session is None:
        raise CaptureError(
            f"this {type(net).__name__} was not made by precc.compile, but from a compiled net, as a slice of an "
            "nn.Sequential is: take the slice of the model, and compile that"
        )
    return session


def read_plan(plan: PrecisionPlan | str | Path) -> PrecisionPlan:
    """A plan as it is, or the one in a file.

    Raises:
        PlanError: neither.
    """
    if isinstance(plan, PrecisionPlan):
        return plan
    if isinstance(plan, (str, Path)):
        try:
            return PrecisionPlan.load(plan)
        except PlanError as error:
            if str(plan) in FORMATS or str(plan) in ALIASES:
                raise PlanError(f"{error}; for one format in all slots: precc.PrecisionPlan({str(plan)!r})") from error
            raise
    hint = "; a policy makes one: pass policy.assign(net.analyze(...))" if hasattr(plan, "assign") else ""
    if isinstance(plan, dict):
        hint = "; slots by name go with a format for all others: precc.PrecisionPlan('fp32', {...})"
    raise PlanError(f"a plan is a PrecisionPlan or the path of one, not {plan!r}{hint}")


def wrap(model: nn.Module, session: Session) -> PrecisionModule:
    """A net that shares everything of the model but its hooks' registries and its own root flags.

    Raises:
        CaptureError: the model has an attribute by one of the names of a compiled net.
    """
    taken = [name for name in PUBLIC_NAMES if hasattr(model, name)]
    if taken:
        raise CaptureError(
            f"{type(model).__name__} has an attribute {taken[0]!r} of its own, which a compiled net needs: rename it "
            f"(a compiled net has {', '.join(PUBLIC_NAMES)})"
        )
    net = clone_as(PrecisionModule, model)
    net.__dict__[_SESSION] = session
    session.belongs_to(net)
    with_regions(net, session)
    return net


def original(net: PrecisionModule) -> nn.Module:
    """The model under a net, uncompiled, sharing all its state: what exports and analyses trace.

    Regions stay what they are, and run uncompiled while torch.export traces them.
    """
    model = plain(net)
    del model.__dict__[_SESSION]
    return model
