"""``precc report``: what each op of a model computes in, and what that does to a step."""

import argparse
import json
from dataclasses import replace
from pathlib import Path

from precc.analysis.analysis import Analysis
from precc.commands.arguments import add_file, draws
from precc.commands.command import Command
from precc.commands.factories import add_factory, task_of
from precc.commands.output import progress, say
from precc.commands.places import writable_file
from precc.commands.steps import (
    PLAN_HELP,
    add_plan,
    analysed,
    analysed_if_it_can_be,
    compiled,
    learn,
    plan_of,
    with_loss,
)
from precc.errors import PlanError
from precc.module import PrecisionModule
from precc.plan import PrecisionPlan
from precc.report.precision_report import PrecisionReport

__all__ = ["REPORT"]

#: Layers that an error lists.
_LISTED = 12

#: Arguments that a report's file has no use for, and what a model's report has where they are not given.
_OF_MODELS = {"--plan": None, "--weights": None, "--seed": 0, "--measure": 0, "--by": "op", "--backend": "reference"}

#: What a report's file has among its first characters, and a plan's has not.
_REPORT, _HEAD = "precc_report", 200


def _add(parser: argparse.ArgumentParser) -> None:
    add_factory(parser, "a report's JSON file, to show or write it anew")
    parser.set_defaults(seed=None)
    add_plan(parser, "the net's own, which rounds nothing")
    parser.add_argument("--measure", type=draws, metavar="N", help="also measure errors, in N draws, at least 2")
    parser.add_argument("--by", choices=["op", "slot"], help="what is measured by itself (default: op)")
    add_file(
        parser,
        "--out",
        action="append",
        default=[],
        metavar="FILE",
        help="write it: .html, .json, .md, .txt or .csv; may be repeated",
    )
    parser.add_argument("--sort", metavar="COLUMN", help="of its rows, the largest first, such as predicted")
    parser.add_argument("--where", metavar="GLOB", help="only the layers that fit, such as 'conv*'")
    add_file(parser, "--against", metavar="PLAN", help=f"show differences to a report's JSON file, or to {PLAN_HELP}")
    parser.add_argument("--backend", help="default: reference, which compiles nothing")


def _run(chosen: argparse.Namespace) -> int:
    for name in chosen.out:
        writable_file(name)
    report = _shown(chosen, _saved(chosen) if _is_saved(chosen.model) else _made(_completed(chosen)))
    with progress(chosen, len(chosen.out)) as bar:
        for name in chosen.out:
            bar.at(f"writing {name}")
            report.save(name)
            bar.advance()
    document = json.loads(report.to_json())
    say(chosen, document, report, *[f"wrote {', '.join(chosen.out)}"] * bool(chosen.out))
    return 0


def _is_saved(name: str) -> bool:
    return name.endswith(".json") and ":" not in Path(name).name


def _saved(chosen: argparse.Namespace) -> PrecisionReport:
    """The report of a file, beside another."""
    given = next((name for name in _OF_MODELS if getattr(chosen, name[2:]) is not None), None)
    if given is not None:
        raise PlanError(f"{given} is of a model, and {chosen.model!r} is a report, which has a plan: leave it out")
    against = None if chosen.against is None else PrecisionReport.load(chosen.against)
    report = PrecisionReport.load(chosen.model)
    return report if against is None else replace(report, against=against)


def _completed(chosen: argparse.Namespace) -> argparse.Namespace:
    """The arguments, with the defaults of those that are of models."""
    own = vars(chosen)
    return argparse.Namespace(**{**own, **{k[2:]: v for k, v in _OF_MODELS.items() if own[k[2:]] is None}})


def _made(chosen: argparse.Namespace) -> PrecisionReport:
    """The report of a model's step."""
    plan = None if chosen.plan is None else plan_of(chosen.plan)
    saved = chosen.against is not None and _is_report(chosen.against)
    other = None if chosen.against is None or saved else plan_of(chosen.against)
    with progress(chosen, 3) as bar:
        bar.at("running the step")
        task = with_loss(task_of(chosen))
        net = compiled(task, plan, chosen.backend)
        learn(task.on(net))
        bar.advance("analysing the step")
        plans = [own for own in (net.plan, other) if own is not None]
        analysis, why = (analysed(task, net, plans), "") if chosen.measure else analysed_if_it_can_be(task, net, plans)
        bar.advance("predicting errors")
        against = PrecisionReport.load(chosen.against) if saved else _other(net, analysis, other)
        report = None if chosen.measure else net.report(analysis, by=chosen.by, against=against)
        bar.advance()
    if report is None:  # measuring has a bar of its own
        report = net.report(analysis, measure=chosen.measure, by=chosen.by, against=against)
    return replace(report, missing=(*report.missing, why)) if why else report


def _other(net: PrecisionModule, analysis: Analysis | None, plan: PrecisionPlan | None) -> PrecisionReport | None:
    """The report of the same step under another plan."""
    if plan is None:
        return None
    own = net.plan
    net.set_plan(plan, recompile=True)
    try:
        return net.report(analysis)
    finally:
        net.set_plan(own, recompile=True)


def _is_report(name: str) -> bool:
    """Whether a file holds a report, and no plan."""
    path = Path(name)
    return path.suffix == ".json" and path.is_file() and f'"{_REPORT}"' in path.read_text("utf-8", "replace")[:_HEAD]


def _shown(chosen: argparse.Namespace, report: PrecisionReport) -> PrecisionReport:
    if chosen.where is not None:
        whole, report = report, report.where(layer=chosen.where)
        if whole.rows and not report.rows:
            layers = ", ".join(dict.fromkeys(row.layer or "the root" for row in whole.rows[:_LISTED]))
            raise PlanError(
                f"no layer fits {chosen.where!r}: there are {layers}{', ...' * (len(whole.rows) > _LISTED)}"
            )
    return report if chosen.sort is None else report.sorted_by(chosen.sort)


REPORT = Command(
    "report",
    "report what each op of a model computes in, and what that does to a training step",
    "examples: precc report net.py:factory --plan e4m3/tensor --measure 4 --out report.html; "
    "precc report run/report.json --out report.html --sort predicted",
    _add,
    _run,
)
