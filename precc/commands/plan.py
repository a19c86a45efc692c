"""The commands ``precc plan ...``: plans and saved analyses, without a net."""

import argparse
import json
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.table import Table

from precc.analysis.analysis import Analysis
from precc.assignment.check_runs import check_runs
from precc.assignment.step_work import step_work
from precc.backends.onnx.load_plan import load_plan
from precc.commands.arguments import add_file, add_folder
from precc.commands.assign_options import add_choices, add_policies, choices_of, policy_of
from precc.commands.command import Command
from precc.commands.output import progress, say
from precc.commands.places import writable_file, writable_folder
from precc.commands.rule_arguments import rules_of
from precc.cost.cost_model import CostModel
from precc.cost.cost_of_plan import cost_of
from precc.cost.named_costs import cost_named, names_of_costs
from precc.errors import PlanError
from precc.plan import PrecisionPlan
from precc.policies.choosing_policy import checked_cost
from precc.policies.pareto import Front, pareto
from precc.provenance import Provenance
from precc.target import TARGETS

__all__ = ["PLAN"]

_COST = "bit-ops"
#: A number with more digits than people read.
_LONG = re.compile(r"(?<![\w.])\d+\.\d{5,}(?:e[-+]?\d+)?(?![\w.])")
_PLAN_HELP = "a plan's JSON file, or an exported ONNX file"


def _add_show(parser: argparse.ArgumentParser) -> None:
    add_file(parser, "plan", help=_PLAN_HELP)


def _add_diff(parser: argparse.ArgumentParser) -> None:
    add_file(parser, "before", help=_PLAN_HELP)
    add_file(parser, "after", help="likewise")


def _add_apply(parser: argparse.ArgumentParser) -> None:
    add_file(parser, "plan", help=_PLAN_HELP)
    _add_analysis(parser)
    add_file(parser, "--out", help="write the plan with all slots named, and with the prediction")


def _add_assign(parser: argparse.ArgumentParser) -> None:
    _add_analysis(parser)
    add_choices(parser)
    add_policies(parser)
    add_file(parser, "--out", help="write the plan")


def _add_pareto(parser: argparse.ArgumentParser) -> None:
    _add_analysis(parser)
    add_choices(parser)
    parser.add_argument("--points", type=int, default=24, help="costs that are tried (default: 24)")
    add_folder(parser, "--out", help="folder for the plans")


def _add_analysis(parser: argparse.ArgumentParser) -> None:
    add_file(parser, "analysis", help="a file that analysis.save wrote")
    parser.add_argument("--cost", help=f"{names_of_costs()}, by `precc calibrate` (default: {_COST})")
    parser.add_argument("--anywhere", action="store_true", help="take the figures of a roofline from another machine")
    parser.add_argument("--target", choices=list(TARGETS), default="cpu-emulated", help="default: cpu-emulated")


def _show(chosen: argparse.Namespace) -> int:
    plan = load_plan(chosen.plan)
    say(chosen, _document(plan), *_lines(plan))
    return 0


def _diff(chosen: argparse.Namespace) -> int:
    found = load_plan(chosen.before).diff(load_plan(chosen.after))
    say(chosen, {"changes": [str(own) for own in found]}, str(found))
    return 0


def _apply(chosen: argparse.Namespace) -> int:
    if chosen.out:
        writable_file(chosen.out)
    analysis, plan = Analysis.load(chosen.analysis), load_plan(chosen.plan)
    target, work = TARGETS[chosen.target], step_work(analysis)
    model = checked_cost(_cost(chosen), target)
    error, cost = analysis.predict(plan), cost_of(plan, work, model)
    check_runs(plan, work, target)
    made = Provenance(plan.provenance.policy, "", analysis.digest, error, cost)  # its budget was of another step
    return _finish(chosen, replace(plan.resolve(analysis.multiply_adds), provenance=made))


def _assign(chosen: argparse.Namespace) -> int:
    policy, rules = policy_of(chosen), rules_of(chosen.rules)
    if chosen.out:
        writable_file(chosen.out)
    cost = None if chosen.cost is None else _cost(chosen)  # that of the policy
    with progress(chosen, None) as bar:
        bar.at("choosing formats")
        plan = policy.assign(Analysis.load(chosen.analysis), cost=cost, target=chosen.target, rules=rules)
    return _finish(chosen, plan)


def _cost(chosen: argparse.Namespace) -> CostModel:
    return cost_named(chosen.cost or _COST, anywhere=chosen.anywhere)


def _pareto(chosen: argparse.Namespace) -> int:
    folder = _empty_folder(chosen.out) if chosen.out else None
    with progress(chosen, None) as bar:
        bar.at(f"choosing plans at {chosen.points} costs")
        plans = pareto(
            Analysis.load(chosen.analysis),
            cost=_cost(chosen),
            target=chosen.target,
            points=chosen.points,
            rules=rules_of(chosen.rules),
            options=Front(**choices_of(chosen)),
        )
    wrote = []
    if folder is not None:
        for number, plan in enumerate(plans):
            plan.save(folder / f"{number:02}.json")
        wrote = [f"wrote {len(plans)} plans to {folder}"]
    say(chosen, {"plans": [_document(plan) for plan in plans]}, _front(plans), *wrote)
    return 0


def _front(plans: list[PrecisionPlan]) -> Table:
    table = Table("plan", "cost", "average bits", "predicted error", "", box=None)
    for number, plan in enumerate(plans):
        known = (str(plan.cost), f"{plan.average_bits:.2f}", str(plan.predicted_error), plan.provenance.budget)
        table.add_row(f"{number:02}", *known)
    return table


def _empty_folder(name: str) -> Path:
    """A folder for plans, which has none: those of another front would be taken for its own."""
    folder = writable_folder(name)
    if any(folder.glob("*.json")):
        raise PlanError(f"{name!r} has plans already: name another folder, or empty it")
    return folder


def _finish(chosen: argparse.Namespace, plan: PrecisionPlan) -> int:
    if chosen.out:
        plan.save(chosen.out)
    say(chosen, _document(plan), *_lines(plan), *[f"wrote {chosen.out}"] * bool(chosen.out))
    return 0


def _document(plan: PrecisionPlan) -> dict[str, Any]:
    """The plan as in its file, and what a file does not have."""
    bits = plan.average_bits if plan.multiply_adds and not plan.in_two_passes else None
    error, cost = plan.predicted_error, plan.cost
    known = {
        "average_bits": bits,
        "predicted_error": None if error is None else asdict(error),
        "cost": None if cost is None else asdict(cost),
    }
    return {"plan": json.loads(plan.to_json()), **known}


def _lines(plan: PrecisionPlan) -> list[str]:
    """The plan, and what is known of where it comes from."""
    made = plan.provenance
    lines = [_shorter(str(plan))]
    for name in ("budget", "analysis", "predicted_error", "cost"):
        value = getattr(made, name)
        lines += [f"{name.replace('_', ' ')}: {_shorter(str(value))}"] * bool(value)
    if plan.in_two_passes:
        lines.append(f"average bits: values decide, as {len(plan.in_two_passes)} products are computed in two passes")
    elif plan.multiply_adds:
        lines.append(f"average bits: {plan.average_bits:.4g}")
    return lines


def _shorter(text: str) -> str:
    """With four digits of each number that has more behind its point.

    >>> _shorter("NoiseBudget(noise=51.20098908006137, above=1e-12, size=0.125)")
    'NoiseBudget(noise=51.2, above=1e-12, size=0.125)'
    """
    return _LONG.sub(lambda found: f"{float(found[0]):.4g}", text)


#: Of the group ``plan``.
PLAN = (
    Command(
        "plan show",
        "print a plan, and where it comes from",
        "example: precc plan show out/plan.json",
        _add_show,
        _show,
    ),
    Command(
        "plan diff",
        "print what changes from one plan to another",
        "example: precc plan diff before.json after.json",
        _add_diff,
        _diff,
    ),
    Command(
        "plan apply",
        "predict the error and the cost of a plan in an analysed step",
        "example: precc plan apply plan.json step.precc --cost energy",
        _add_apply,
        _apply,
    ),
    Command(
        "plan assign",
        "choose a plan for an analysed step",
        "example: precc plan assign step.precc --gradient 0.05 --out plan.json",
        _add_assign,
        _assign,
    ),
    Command(
        "plan pareto",
        "list the best plans at each cost",
        "example: precc plan pareto step.precc --candidates e4m3,bf16,fp32 --out front",
        _add_pareto,
        _pareto,
    ),
)
