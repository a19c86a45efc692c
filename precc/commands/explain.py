"""``precc explain``: why a slot has its format, and what others would do."""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from precc.analysis.analysis import Analysis
from precc.analysis.explanation import explained, full_name
from precc.commands.command import Command
from precc.commands.factories import add_factory, task_of
from precc.commands.output import progress, say
from precc.commands.steps import add_plan, analysed, compiled, plan_of, with_loss
from precc.plan import PrecisionPlan

__all__ = ["EXPLAIN"]


def _add(parser: argparse.ArgumentParser) -> None:
    add_factory(parser, "a file that analysis.save wrote")
    parser.add_argument("slot", metavar="SLOT", help="such as conv2/fprop.weight")
    add_plan(parser, "the net's own, which rounds nothing")


def _run(chosen: argparse.Namespace) -> int:
    plan = None if chosen.plan is None else plan_of(chosen.plan)
    with progress(chosen, None) as bar:
        bar.at("analysing the step")
        analysis, plan = _analysis(chosen, plan)
    name = full_name(analysis, chosen.slot)
    say(chosen, _document(analysis, name, plan), explained(analysis, name, plan))
    return 0


def _analysis(chosen: argparse.Namespace, plan: PrecisionPlan | None) -> tuple[Analysis, PrecisionPlan]:
    """Of the file or the model, and the plan that is explained."""
    if ":" not in chosen.model and Path(chosen.model).is_file():
        return Analysis.load(chosen.model), PrecisionPlan("float32") if plan is None else plan
    task = with_loss(task_of(chosen))
    net = compiled(task, plan)
    return analysed(task, net, [net.plan]), net.plan


def _document(analysis: Analysis, name: str, plan: PrecisionPlan) -> dict[str, Any]:
    record = analysis.records[name]
    own = {} if record.sensitivity is None else {"precision": str(plan.precision(name))}
    alone = analysis.contributions(plan).get(name)
    return {
        "slot": name,
        **own,
        "elements": record.value_range.elements,
        "zeros": record.value_range.zeros,
        "amin": record.value_range.amin,
        "amax": record.value_range.amax,
        "multiply_adds": record.multiply_adds,
        "condition": None if record.condition is None else record.condition.median,
        "sensitivity": None if record.sensitivity is None else asdict(record.sensitivity),
        "predicted": None if alone is None else {"loss": alone.loss, "gradient": alone.gradient},
        "text": explained(analysis, name, plan),
    }


EXPLAIN = Command(
    "explain",
    "say why a slot has its format: range, condition, sensitivity, error, and what other formats would do",
    "example: precc explain net.py:factory fc1/fprop.weight --plan e4m3; precc explain step.precc fc1/fprop.weight",
    _add,
    _run,
)
