"""``precc compare``: what several plans do to one step, and what they cost, beside the best uniform ones."""

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from precc.analysis.analysis import Analysis
from precc.analysis.error_estimate import ErrorEstimate
from precc.assignment.candidates import CANDIDATES
from precc.assignment.step_work import step_work
from precc.commands.arguments import add_file, draws
from precc.commands.command import Command
from precc.commands.factories import add_factory, task_of
from precc.commands.output import Bar, progress, say
from precc.commands.steps import PLAN_HELP, analysed, compiled, plan_of, with_loss
from precc.cost.cost_model import CostModel
from precc.cost.cost_of_plan import cost_of
from precc.cost.named_costs import cost_named, names_of_costs
from precc.cost.plan_cost import PlanCost
from precc.plan import PrecisionPlan
from precc.report.short_names import short_formats

__all__ = ["COMPARE", "Compared"]

#: Differences that are printed of each plan: the table is what is looked for.
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Compared:
    """A plan in one step.

    Args:
        name: as it was given.
        plan: with all slots of operands named.
        predicted: its error.
        cost: of the step.
        measured: its error, observed; None if it was not.
        control: of which plans it is one, in words; empty for a plan that was given.
    """

    name: str
    plan: PrecisionPlan
    predicted: ErrorEstimate
    cost: PlanCost
    measured: ErrorEstimate | None = None
    control: str = ""

    @property
    def bits(self) -> float | None:
        """On average; None where values decide."""
        return None if self.plan.in_two_passes else self.plan.average_bits


def _add(parser: argparse.ArgumentParser) -> None:
    add_factory(parser)
    add_file(parser, "plans", metavar="PLAN", nargs="+", help=PLAN_HELP)
    parser.add_argument(
        "--measure", type=draws, default=0, metavar="N", help="also measure each, in N draws, at least 2"
    )
    parser.add_argument("--cost", default="bit-ops", help=f"{names_of_costs()} (default: bit-ops)")
    parser.add_argument("--anywhere", action="store_true", help="take the figures of a roofline from another machine")


def _run(chosen: argparse.Namespace) -> int:
    plans = {name: plan_of(name) for name in chosen.plans}
    model = cost_named(chosen.cost, anywhere=chosen.anywhere)
    with progress(chosen, 1 + len(plans)) as bar:
        bar.at("analysing the step")
        task = with_loss(task_of(chosen))
        analysis = analysed(task, compiled(task, None), list(plans.values()))
        bar.advance()
        given = [_given(bar, analysis, name, plan, model, chosen.measure) for name, plan in plans.items()]
    every = [*_controls(analysis, given, model), *given]
    say(chosen, _document(analysis, every), _heading(analysis), _table(every), *_notes(every), *_differences(given))
    return 0


def _given(bar: Bar, analysis: Analysis, name: str, plan: PrecisionPlan, model: CostModel, measure: int) -> Compared:
    bar.at(f"{'measuring' if measure else 'predicting'} {name}")
    found = _compared(analysis, name, plan, model, measure=measure)
    bar.advance()
    return found


def _compared(
    analysis: Analysis, name: str, plan: PrecisionPlan, model: CostModel, *, measure: int = 0, control: str = ""
) -> Compared:
    measured = analysis.measure(plan, measure) if measure else None
    own = plan.resolve(analysis.multiply_adds)
    return Compared(name, own, analysis.predict(plan), cost_of(plan, step_work(analysis), model), measured, control)


def _controls(analysis: Analysis, given: Sequence[Compared], model: CostModel) -> list[Compared]:
    """Of each plan the uniform one of smallest error that costs no more, and fp32."""
    named = [(str(own), PrecisionPlan(own)) for own in CANDIDATES]
    uniform = [_compared(analysis, name, plan, model) for name, plan in named]
    beside: dict[str, list[str]] = {}
    for own in given:
        within = [other for other in uniform if other.cost.value <= own.cost.value]
        if within:
            best = min(within, key=lambda other: other.predicted.gradient)
            beside.setdefault(best.name, []).append(own.name)
    controls = {name: f"best uniform at the cost of {', '.join(names)}" for name, names in beside.items()}
    controls.setdefault("float32", "no rounding")
    return [
        Compared(own.name, own.plan, own.predicted, own.cost, None, controls[own.name])
        for own in uniform
        if own.name in controls
    ]


def _heading(analysis: Analysis) -> str:
    norm = f"gradient {analysis.gradient_norm:.4g}"
    return f"{analysis.title}: loss {analysis.loss:.4g}, {norm}, {analysis.batch} of the batch"


def _table(every: Sequence[Compared]) -> Table:
    table = Table(box=None, pad_edge=False)
    measured = any(own.measured is not None for own in every)
    table.add_column("plan", overflow="fold")
    for heading in ("loss", "gradient", *("measured loss", "measured gradient") * measured, every[0].cost.unit, "bits"):
        table.add_column(heading, overflow="fold", justify="right")
    for own in every:
        found = [own.predicted, *[own.measured] * measured]
        bits = "values decide" if own.bits is None else f"{own.bits:.4g}"
        name = f"{own.name} *" if own.control else own.name
        table.add_row(name, *(text for each in found for text in _short(each)), f"{own.cost.value:.4g}", bits)
    return table


def _short(own: ErrorEstimate | None) -> tuple[str, str]:
    """Errors of loss and gradient."""
    return ("", "") if own is None else (f"{own.loss_mean:+.1e} +- {own.loss:.1e}", f"{own.gradient:.3%}")


def _notes(every: Sequence[Compared]) -> list[str]:
    """What the controls are, and which predictions are not sure."""
    lines = [f"* {own.name}: {own.control}" for own in every if own.control]
    predicted = ((own.name, str(own.predicted).partition("; ")[2]) for own in every)
    return lines + [f"{name}: the prediction is {doubt}" for name, doubt in predicted if doubt]


def _differences(given: Sequence[Compared]) -> list[str]:
    """What the others have in another way than the first."""
    lines = []
    for own in given[1:]:
        changes = [short_formats(str(change)) for change in given[0].plan.diff(own.plan)]
        more = [f"  and {len(changes) - _SHOWN} more: --json has all"] * (len(changes) > _SHOWN)
        lines += [f"from {given[0].name} to {own.name}: {len(changes)} difference{'s' * (len(changes) != 1)}"]
        lines += [*(f"  {change}" for change in changes[:_SHOWN]), *more]
    return lines


def _document(analysis: Analysis, every: Sequence[Compared]) -> dict[str, Any]:
    first = next(own for own in every if not own.control)
    step = {"title": analysis.title, "loss": analysis.loss, "gradient_norm": analysis.gradient_norm}
    return {**step, "digest": analysis.digest, "plans": [_entry(own, first) for own in every]}


def _entry(own: Compared, first: Compared) -> dict[str, Any]:
    return {
        "name": own.name,
        "control": own.control or None,
        "predicted": _errors(own.predicted),
        "measured": None if own.measured is None else _errors(own.measured),
        "cost": asdict(own.cost),
        "average_bits": own.bits,
        "differences": [] if own.control else [str(change) for change in first.plan.diff(own.plan)],
    }


def _errors(own: ErrorEstimate) -> dict[str, float]:
    return {"loss_mean": own.loss_mean, "loss": own.loss, "gradient": own.gradient}


COMPARE = Command(
    "compare",
    "compare plans in one training step: errors of loss and gradient, cost, bits, and what differs",
    "example: precc compare net.py:factory e4m3 e4m3/tensor plan.json --measure 4",
    _add,
    _run,
)
