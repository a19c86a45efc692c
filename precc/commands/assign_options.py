"""The options of ``precc plan assign``, and the policy that they mean."""

import argparse
from typing import Any

from precc.errors import PlanError
from precc.policies.bit_budget import BitBudget
from precc.policies.cost_budget import CostBudget
from precc.policies.error_budget import ErrorBudget
from precc.policies.first_last_high import FirstLastHigh
from precc.policies.hessian_budget import HessianBudget
from precc.policies.importance_budget import ImportanceBudget
from precc.policies.ruled_policy import RuledPolicy
from precc.policies.threshold import Threshold, ThresholdGranularity

__all__ = ["add_choices", "add_policies", "choices_of", "policy_of"]

_ERRORS = ("loss", "gradient", "bias")
_WEIGHTS = {"hessian": HessianBudget, "importance": ImportanceBudget}
_THRESHOLD = ("granularity", "low", "high", "backward")


def add_choices(parser: argparse.ArgumentParser) -> None:
    """What plans are chosen from."""
    parser.add_argument("--candidates", help="formats with commas between them, such as e2m1,e4m3,bf16")
    parser.add_argument("--inference", action="store_true", help="of the forward alone")
    parser.add_argument("--results", action="store_true", help="also in what results are stored")
    parser.add_argument(
        "--rule",
        action="append",
        default=[],
        dest="rules",
        metavar="RULE",
        help="what holds over the plan, such as 'fc3:keep=fp32' or 'conv*:role=wgrad,format=bf16', or a JSON file with "
        "a list of rules, as a plan has it; may be repeated, and the first that fits decides",
    )


def add_policies(parser: argparse.ArgumentParser) -> None:
    """What a plan is to keep, one option a policy, and what there is beside."""
    errors = parser.add_argument_group("the cheapest plan within errors (ErrorBudget)")
    errors.add_argument("--loss", type=float, help="limit of the loss error, root mean square, absolute")
    errors.add_argument("--gradient", type=float, help="limit of the gradient's error, relative")
    errors.add_argument("--bias", type=float, help="limit of the mean of the loss error, absolute")
    budgets = parser.add_argument_group("or the smallest error within a budget (BitBudget, CostBudget)")
    budgets.add_argument("--bits", type=float, help="limit of the average bits")
    budgets.add_argument("--limit", type=float, help="limit of the cost, in units of its model")
    budgets.add_argument(
        "--weights",
        choices=list(_WEIGHTS),
        help="with --bits: formats of weights alone, by the traces of the Hessian or by importance (HessianBudget, "
        "ImportanceBudget); their cost is their bits, without --cost",
    )
    threshold = parser.add_argument_group("or low precision where condition numbers are small (Threshold)")
    threshold.add_argument("--tau", type=float, help="the largest condition number that is low")
    threshold.add_argument(
        "--granularity", choices=[own.value for own in ThresholdGranularity], help="of the choice (default: component)"
    )
    threshold.add_argument("--low", help="format of operands and sums (default: e4m3)")
    threshold.add_argument("--high", help="likewise (default: e5m10)")
    threshold.add_argument("--backward", help="format of the operands of the backward (default: float32)")
    parser.add_argument(
        "--first-last-high", metavar="FORMAT", help="of the first and last products, whatever the policy chooses"
    )


def choices_of(chosen: argparse.Namespace) -> dict[str, Any]:
    """Options of every policy with a budget."""
    named = {"candidates": chosen.candidates.split(",")} if chosen.candidates is not None else {}
    return {**named, "inference": chosen.inference, "results": chosen.results}


def policy_of(chosen: argparse.Namespace) -> RuledPolicy:
    """The policy.

    Raises:
        PlanError, FormatError: options that do not go together, or one that makes no sense.
    """
    policy = _policy(chosen)
    return policy if chosen.first_last_high is None else FirstLastHigh(policy, chosen.first_last_high)


def _policy(chosen: argparse.Namespace) -> RuledPolicy:
    limits = _given(chosen, _ERRORS)
    wanted = [bool(limits), *(getattr(chosen, name) is not None for name in ("bits", "limit", "tau"))]
    if sum(wanted) > 1:
        raise PlanError("assign needs one budget, and here are several: of errors, bits, cost, or a condition number")
    if not any(wanted):
        raise PlanError(
            "assign needs one budget: of errors (--loss, --gradient, --bias), of bits (--bits) or of cost (--limit), "
            "or a condition number (--tau)"
        )
    _refuse(chosen, "--tau", _THRESHOLD, chosen.tau is None)
    _refuse(chosen, "--bits", ("weights",), chosen.bits is None)
    if chosen.tau is not None:
        return _threshold(chosen)
    if chosen.weights is not None:
        return _weights(chosen)
    if limits:
        return ErrorBudget(**limits, **choices_of(chosen))
    budget = BitBudget if chosen.bits is not None else CostBudget
    return budget(chosen.limit if chosen.bits is None else chosen.bits, **choices_of(chosen))


def _threshold(chosen: argparse.Namespace) -> Threshold:
    if chosen.candidates is not None or chosen.inference or chosen.results:
        raise PlanError("--tau chooses between --low and --high: leave out --candidates, --inference and --results")
    return Threshold(chosen.tau, **_given(chosen, _THRESHOLD))


def _weights(chosen: argparse.Namespace) -> RuledPolicy:
    options = choices_of(chosen)
    if options.pop("inference") | options.pop("results"):
        raise PlanError(
            "--weights chooses formats of weights in forward and backward: leave out --inference, --results"
        )
    return _WEIGHTS[chosen.weights](chosen.bits, **options)


def _refuse(chosen: argparse.Namespace, needed: str, names: tuple[str, ...], missing: bool) -> None:
    """What says nothing without another option."""
    if missing and (found := next(iter(_given(chosen, names)), None)):
        raise PlanError(f"--{found} goes with {needed}, which is not given")


def _given(chosen: argparse.Namespace, names: tuple[str, ...]) -> dict[str, Any]:
    found = {name: getattr(chosen, name) for name in names}
    return {name: value for name, value in found.items() if value is not None}
