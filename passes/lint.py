"""Lint: places of a traced step where the user's code loses digits that another form keeps.

Nothing is run: what is told are patterns of ATen ops in the forward of the joint graph, with numbers from the dtypes
and shapes of its tensors, and sums in the accumulators of a plan, in the backward too. A new check is a function and a
row in `CHECKS`.
"""

from collections.abc import Iterator

from torch.fx import Graph, Node

from precc.analysis.finding import Finding
from precc.analysis.traced_step import TracedStep
from precc.annotations import products_of
from precc.passes.lint_check import Check, Scope
from precc.passes.lint_eps import divisor_without_eps, vanishing_eps
from precc.passes.lint_functions import expm1, log1p, log_sigmoid, log_softmax, log_sum_exp, softmax, softplus, variance
from precc.passes.lint_sums import long_product, long_reduction
from precc.passes.module_paths import module_path
from precc.plan import PrecisionPlan
from precc.protocols import GraphContext
from precc.slots import CallNumbers
from precc.source_places import place_of

__all__ = ["CHECKS", "Finding", "lint"]

#: Every check, in the order in which they look at a node.
CHECKS = (
    Check("log_sum_exp", log_sum_exp),
    Check("softplus", softplus),
    Check("log_softmax", log_softmax),
    Check("log_sigmoid", log_sigmoid),
    Check("log1p", log1p),
    Check("expm1", expm1),
    Check("softmax", softmax),
    Check("variance", variance),
    Check("divisor_without_eps", divisor_without_eps),
    Check("vanishing_eps", vanishing_eps),
    Check("long_reduction", long_reduction),
    Check("long_product", long_product, backward=True),
)


def lint(step: TracedStep, plan: PrecisionPlan | None = None) -> tuple[Finding, ...]:
    """What the checks find in a step, in the order of its graph.

    Args:
        step: of which the forward, with the loss, is looked at; sums under the plan in the backward too.
        plan: whose accumulators products have; None: that of the tensors' own arithmetic.
    """
    return tuple(_findings(step, Scope(step, plan, dict(products_of(step.graph.graph)))))


def _findings(step: TracedStep, scope: Scope) -> Iterator[Finding]:
    context = _context(step)
    backward = _backward(step.graph.graph)
    for node in step.graph.graph.nodes:
        if node.op != "call_function":
            continue
        for check in CHECKS:
            remark = check.find(node, scope) if check.backward or node not in backward else None
            if remark is not None:
                layer = module_path(node, context)
                where = place_of(node, layer)
                yield Finding(check.kind, node.name, layer, where, remark.problem, remark.better)


def _backward(graph: Graph) -> frozenset[Node]:
    """The nodes of the backward: those that autograd made, and those that depend on a tangent."""
    found = set[Node]()
    for node in graph.nodes:
        tangent = node.op == "placeholder" and "tangents" in str(node.target)
        made = node.meta.get("autograd_backward", False)
        if tangent or made or any(argument in found for argument in node.all_input_nodes):
            found.add(node)
    return frozenset(found)


def _context(step: TracedStep) -> GraphContext:
    """In a step, the name ``net`` is that of the whole net."""
    return GraphContext(frozenset(), step.plan, {"net": ""}, {}, ("lint", 0), CallNumbers())
