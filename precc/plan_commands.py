"""The commands ``precc plan ...``: plans and saved analyses, without a net."""

import argparse
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from precc.analysis.analysis import Analysis
from precc.assign_options import add_choices, add_policies, choices_of, policy_of
from precc.assignment.check_runs import check_runs
from precc.assignment.step_work import step_work
from precc.cost.cost_model import CostModel
from precc.cost.cost_of_plan import cost_of
from precc.cost.named_costs import cost_named, names_of_costs
from precc.errors import PlanError
from precc.files import require_place
from precc.plan import PrecisionPlan
from precc.policies.choosing_policy import checked_cost
from precc.policies.pareto import Front, pareto
from precc.provenance import Provenance
from precc.rule_arguments import rules_of
from precc.target import TARGETS

__all__ = ["add_plan_commands", "run_plan_command"]

_COST = "bit-ops"


def add_plan_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``plan`` with its own commands to a parser."""
    plan = commands.add_parser("plan", help="show, compare and choose plans, from files")
    own = plan.add_subparsers(dest="plan_command", required=True)
    show = own.add_parser("show", help="print a plan, and where it comes from")
    show.add_argument("plan", help="a plan's JSON file, or an exported ONNX file")
    diff = own.add_parser("diff", help="print what changes from one plan to another")
    diff.add_argument("before")
    diff.add_argument("after")
    apply = own.add_parser("apply", help="predict the error and the cost of a plan in an analysed step")
    apply.add_argument("plan", help="a plan's JSON file, or an exported ONNX file")
    _add_analysis(apply)
    apply.add_argument("--out", help="write the plan with all slots named, and with the prediction")
    assign = own.add_parser(
        "assign",
        help="choose a plan for an analysed step",
        epilog="example: precc plan assign step.precc --gradient 0.05 --out plan.json",
    )
    _add_analysis(assign)
    add_choices(assign)
    add_policies(assign)
    assign.add_argument("--out", help="write the plan")
    front = own.add_parser("pareto", help="list the best plans at each cost")
    _add_analysis(front)
    add_choices(front)
    front.add_argument("--points", type=int, default=24, help="costs that are tried (default: 24)")
    front.add_argument("--out", help="folder for the plans")


def _add_analysis(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("analysis", help="a file that analysis.save wrote")
    parser.add_argument("--cost", help=f"{names_of_costs()}, by `precc calibrate` (default: {_COST})")
    parser.add_argument("--anywhere", action="store_true", help="take the figures of a roofline from another machine")
    parser.add_argument("--target", choices=list(TARGETS), default="cpu-emulated", help="default: cpu-emulated")


def run_plan_command(chosen: argparse.Namespace, load: Callable[[str], PrecisionPlan] = PrecisionPlan.load) -> None:
    """Run what the arguments say; `load` reads the file of a plan."""
    commands: dict[str, Callable[[argparse.Namespace], None]] = {
        "show": partial(_show, load=load),
        "diff": partial(_diff, load=load),
        "apply": partial(_apply, load=load),
        "assign": _assign,
        "pareto": _pareto,
    }
    commands[chosen.plan_command](chosen)


def _show(chosen: argparse.Namespace, load: Callable[[str], PrecisionPlan]) -> None:
    _print(load(chosen.plan))


def _diff(chosen: argparse.Namespace, load: Callable[[str], PrecisionPlan]) -> None:
    print(load(chosen.before).diff(load(chosen.after)))


def _apply(chosen: argparse.Namespace, load: Callable[[str], PrecisionPlan]) -> None:
    analysis, plan = Analysis.load(chosen.analysis), load(chosen.plan)
    target, work = TARGETS[chosen.target], step_work(analysis)
    model = checked_cost(_cost(chosen), target)
    error, cost = analysis.predict(plan), cost_of(plan, work, model)
    check_runs(plan, work, target)
    made = Provenance(plan.provenance.policy, "", analysis.digest, error, cost)  # its budget was of another step
    _finish(replace(plan.resolve(analysis.multiply_adds), provenance=made), chosen.out)


def _assign(chosen: argparse.Namespace) -> None:
    policy, rules = policy_of(chosen), rules_of(chosen.rules)
    if chosen.out:
        require_place(Path(chosen.out))
    cost = None if chosen.cost is None else _cost(chosen)  # that of the policy
    plan = policy.assign(Analysis.load(chosen.analysis), cost=cost, target=chosen.target, rules=rules)
    _finish(plan, chosen.out)


def _cost(chosen: argparse.Namespace) -> CostModel:
    return cost_named(chosen.cost or _COST, anywhere=chosen.anywhere)


def _pareto(chosen: argparse.Namespace) -> None:
    folder = _empty_folder(chosen.out) if chosen.out else None
    plans = pareto(
        Analysis.load(chosen.analysis),
        cost=_cost(chosen),
        target=chosen.target,
        points=chosen.points,
        rules=rules_of(chosen.rules),
        options=Front(**choices_of(chosen)),
    )
    table = Table("plan", "cost", "average bits", "predicted error", "", box=None)
    for number, plan in enumerate(plans):
        known = (str(plan.cost), f"{plan.average_bits:.2f}", str(plan.predicted_error), plan.provenance.budget)
        table.add_row(f"{number:02}", *known)
    if folder is not None:
        for number, plan in enumerate(plans):
            plan.save(folder / f"{number:02}.json")
    Console().print(table)
    if folder is not None:
        print(f"wrote {len(plans)} plans to {folder}")


def _empty_folder(name: str) -> Path:
    """A folder for plans, which has none: those of another front would be taken for its own."""
    folder = Path(name)
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.glob("*.json")):
        raise PlanError(f"{name!r} has plans already: name another folder, or empty it")
    return folder


def _finish(plan: PrecisionPlan, out: str | None) -> None:
    if out:
        plan.save(out)
    _print(plan)
    if out:
        print(f"wrote {out}")


def _print(plan: PrecisionPlan) -> None:
    """The plan, and what is known of where it comes from."""
    made = plan.provenance
    print(plan)
    for name in ("budget", "analysis", "predicted_error", "cost"):
        value = getattr(made, name)
        if value:
            print(f"{name.replace('_', ' ')}: {value}")
    if plan.in_two_passes:
        print(f"average bits: values decide, as {len(plan.in_two_passes)} products are computed in two passes")
    elif plan.multiply_adds:
        print(f"average bits: {plan.average_bits:.4g}")
