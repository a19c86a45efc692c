"""Errors of the values of each node of the forward part under a plan: three estimates that grow along the graph.

With kappa the condition number of a node and e the largest relative error of its arguments, componentwise and to first
order (El Arar, Filip, Mary and Riccietti 2025, arXiv 2503.15568; Higham 2002, section 3.1),

    worst           kappa * e + own             kappa the largest of the components; own: u, of a product kappa * n u
    probabilistic   sqrt((kappa * e)**2 + own**2)   kappa their root mean square; own: u, of a product kappa * sqrt(n) u

(Higham and Mary 2019 for the second), and normwise ``sqrt(mean square error / mean square of the values)`` by the gains
of `precc.analysis.error_gains`. A rounding adds its own error: the largest possible, and the root mean square. Of a
product e is the sum of those of its operands, u the unit roundoff of its sum; rounded stochastically it is twice that.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from precc.accumulation.sums import one_pass
from precc.analysis.condition import Condition
from precc.analysis.error_gains import ErrorGains, GainedNode, MeanSquare
from precc.analysis.rounding_error import RelativeError
from precc.formats import FloatFormat
from precc.plan import PrecisionPlan
from precc.slots import ACCUMULATOR

__all__ = ["NodeError", "forward_errors"]


@dataclass(frozen=True, slots=True)
class NodeError:
    """Of the values of a node, relative; infinite where no estimate of that kind is.

    Args:
        worst: componentwise, if all errors conspire.
        probabilistic: componentwise, if they are independent.
        normwise: root mean square of the error, over that of the values.
    """

    worst: float
    probabilistic: float
    normwise: float


_EXACT = NodeError(0.0, 0.0, 0.0)


def forward_errors(
    gains: ErrorGains,
    conditions: Mapping[str, Condition],
    plan: PrecisionPlan,
    roundings: Mapping[str, RelativeError],
    squares: Mapping[str, MeanSquare],
) -> dict[str, NodeError]:
    """By name of the node, in order.

    Args:
        gains: the nodes.
        conditions: by node.
        plan: whose accumulators products have.
        roundings: of the operands' slots under the plan.
        squares: mean square errors under the plan, of slots and sums.
    """
    means = gains.mean_squares(squares)
    found: dict[str, NodeError] = {}
    for node in gains.nodes:
        worst, probable = _componentwise(node, found, conditions.get(node.name), plan, roundings.get(node.slot))
        size = node.mean_square
        normwise = math.sqrt(means[node.name].usual / size) if size else (math.inf if means[node.name].usual else 0.0)
        found[node.name] = NodeError(worst, probable, normwise)
    return found


def _componentwise(
    node: GainedNode,
    found: Mapping[str, NodeError],
    condition: Condition | None,
    plan: PrecisionPlan,
    rounding: RelativeError | None,
) -> tuple[float, float]:
    before = [found.get(argument, _EXACT) for argument, _ in node.arguments]
    worst, probable = max(own.worst for own in before), max(own.probabilistic for own in before)
    if rounding is not None:
        return worst + rounding.largest, math.hypot(probable, rounding.rms)
    if node.terms:
        return _of_product(node, before, condition, plan)
    if node.unit == 0.0 and node.shows_values:
        return worst, probable
    largest, rms = _kappas(condition)
    return _times(largest, worst) + node.unit, math.hypot(_times(rms, probable), node.unit)


def _of_product(
    node: GainedNode, before: list[NodeError], condition: Condition | None, plan: PrecisionPlan
) -> tuple[float, float]:
    largest, rms = _kappas(condition)
    u = _unit_of_sums(node, plan)
    gamma = node.terms * u / (1 - node.terms * u) if node.terms * u < 1 else math.inf
    operands = before[-2:]  # what is added comes before them
    worst = _times(largest, sum(own.worst for own in operands) + gamma)
    probable = math.hypot(*(own.probabilistic for own in operands), math.sqrt(node.terms) * u)
    return worst, _times(rms, probable)


def _unit_of_sums(node: GainedNode, plan: PrecisionPlan) -> float:
    chosen = plan.accumulator(node.slot) if node.slot.endswith(ACCUMULATOR) else None
    accumulator = one_pass(chosen, "the error")
    if accumulator is None or not isinstance(accumulator.format, FloatFormat):
        return node.unit
    u = 2.0 ** -(accumulator.format.mantissa_bits + 1)
    return 2 * u if accumulator.is_stochastic else u


def _kappas(condition: Condition | None) -> tuple[float, float]:
    """The largest, and the root mean square; infinite where there is none."""
    if condition is None or condition.infinite or math.isnan(condition.maximum):
        return math.inf, math.inf if condition is None or math.isnan(condition.rms) else condition.rms
    return condition.maximum, condition.rms


def _times(kappa: float, error: float) -> float:
    """0 where no error comes in, whatever the condition."""
    return kappa * error if error else 0.0
