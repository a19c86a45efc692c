"""One record a slot, and one a node, from what the passes found; both are set in the graph."""

import math

from torch import Tensor
from torch.fx import Node

from precc.analysis.findings import Findings
from precc.analysis.records import SlotRecord, SlotSensitivity
from precc.analysis.sensitivities import Sensitivities
from precc.analysis.slot_sample import SlotAdjoints, ValueSample
from precc.analysis.slot_sites import passes_rounding, sites_of
from precc.analysis.step_runs import forward_nodes
from precc.analysis.traced_step import TracedStep
from precc.annotations import NodeRecord, Product, annotate, annotation_of, products_of, results_of
from precc.captured_graph import size_value

__all__ = ["build_records"]


def build_records(step: TracedStep, findings: Findings) -> dict[str, SlotRecord]:
    """Records of all slots: of operands and accumulators in the order of the graph, then of results."""
    found: dict[str, SlotRecord] = {}
    answers = {
        slot.name: _sensitivity(sample, slot, findings.sensitivities)
        for sample in findings.sensitivities.samples
        for slot in sample.slots
    }
    unknown = findings.sensitivities.unknown_slots
    sites, forward = sites_of(step), forward_nodes(step)
    saved = {site.name for site in sites if site.node in forward and _readers(site.node) - forward}
    for node, product in products_of(step.graph.graph):
        condition = findings.conditions.get(node.name)
        for slot in (*(operand.slot for operand in product.operands), *product.accumulators):
            work, outputs = size_value(product.multiply_adds, {}), _outputs(node)
            name = slot.name
            found[name] = SlotRecord(
                slot,
                work,
                outputs,
                findings.ranges[name],
                condition,
                answers.get(name),
                unknown.of(name),
            )
    for node, result in results_of(step.graph.graph):
        name = result.slot.name
        if name in answers:
            own = annotation_of(node)
            work = size_value(own.multiply_adds, {}) if isinstance(own, Product) else 0
            found[name] = SlotRecord(
                result.slot,
                work,
                _outputs(node),
                findings.ranges[name],
                findings.conditions.get(node.name),
                answers[name],
                unknown.of(name),
                saved=name in saved,
            )
    roundings = {site.node: found[site.name] for site in sites}
    _annotate_others(step, findings, frozenset(roundings))
    for node, record in roundings.items():
        annotate(node, record)
    return found


def _readers(node: Node) -> set[Node]:
    """Of a value, also through ops that leave it as it is, or 0."""
    found: set[Node] = set()
    for user in node.users:
        found |= _readers(user) if passes_rounding(user) else {user}
    return found


def _outputs(node: Node) -> int:
    value = node.meta["val"]
    shown = value if isinstance(value, Tensor) else next(own for own in value if isinstance(own, Tensor))
    return math.prod(shown.shape)


def _annotate_others(step: TracedStep, findings: Findings, roundings: frozenset[Node]) -> None:
    gained = {own.name: own for own in findings.gains.nodes}
    unknown = {own.node: own for own in findings.unknown}
    for node in step.graph.graph.nodes:
        known = (findings.conditions.get(node.name), gained.get(node.name))
        if node not in roundings and node.op == "call_function" and any(known):
            annotate(node, NodeRecord(*known, annotation_of(node), unknown.get(node.name)))


def _sensitivity(sample: ValueSample, slot: SlotAdjoints, found: Sensitivities) -> SlotSensitivity:
    squares = sample.weights * sample.values.double().square()
    probes = (slot.gradient.square() * squares).sum(1)
    loss = curvature = 0.0
    if slot.loss is not None and slot.sums is not None:
        loss = math.sqrt(float((slot.loss.square() * squares).sum()))
        curvature = float(slot.sums.curvatures.mean(0).sum()) / 2
    gradient, norm = math.sqrt(float(probes.mean())), found.gradient_norm
    spread = found.deviation_of_mean(probes) / (2 * gradient) if gradient else 0.0
    relative = (gradient / norm, spread / norm) if norm else (math.nan, math.nan)
    return SlotSensitivity(loss, relative[0], curvature, relative[1])
