"""What a report says of a net beside its table: what was compiled, decided, narrowed, executed, and not rounded."""

from collections.abc import Collection, Mapping, Sequence

from precc.captured_graph import CapturedGraph, depends_on_data
from precc.first_match import first_match
from precc.formats import FixedPoint
from precc.plan import PrecisionPlan
from precc.report.net_parts import NetFacts

__all__ = ["graph_notes"]

#: Shares of the work of a format up from which it is named.
_NAMED = 1e-3


def graph_notes(net: NetFacts, work: Sequence[int]) -> list[str]:
    """In sentences, most of them about the graphs that were captured.

    Args:
        net: whose.
        work: multiply-adds of its ops.
    """
    plan, graphs = net.plan, net.graphs
    notes = [_compiled(net.backend, graphs, work, live=net.live)] if graphs else []
    notes += _rules(plan, graphs, net.updates)
    notes += net.training
    notes += [f"a faster backend cannot run here: {net.lacking}"] * bool(net.lacking)
    notes += _narrower(plan, graphs)
    notes += _unscaled_integers(plan, graphs)
    notes += _inside_kernels(graphs)
    notes += _without_kernels(graphs)
    notes += _uncounted(graphs)
    notes += _executed(net.executed)
    if net.events:
        notes += ["events: " + ", ".join(f"{count} {name}" for name, count in sorted(net.events.items()))]
    notes += _not_rounded(graphs, captured_whole=not (net.graph_breaks or net.outside))
    notes += [f"graph break: {reason}; what lies between the graphs runs unrounded" for reason in net.graph_breaks]
    if net.outside:
        names = ", ".join(net.outside)
        notes += [f"in no graph so far (unused, in a like module's graph, or unrounded outside): {names}"]
    return notes + _resumed(graphs)


def _resumed(graphs: Sequence[CapturedGraph]) -> list[str]:
    return [
        f"a graph starts in {graph.start!r} after a graph break: further modules of its class that run "
        "the same code share its slots"
        for graph in graphs
        if graph.start != graph.region
    ]


def _compiled(backend: str, graphs: Sequence[CapturedGraph], work: Sequence[int], *, live: bool) -> str:
    training = sum(graph.training for graph in graphs)
    kinds = f"{training} with and {len(graphs) - training} without a backward"
    slots = {slot.name for graph in graphs for slot in graph.slots}
    accumulators = _accumulators(graphs)
    summing = f" and {len(accumulators)} accumulators" if any(graph.accumulates for graph in graphs) else ""
    summing += f" and {len(_results(graphs))} results" if _results(graphs) else ""
    return (
        f"compiled: {len(graphs)} graph(s) by {backend} ({kinds}), {len(slots)} slots{summing}, "
        f"{sum(work):,} multiply-adds a step{'' if live else ', for this plan alone (live=False)'}"
    )


def _rules(plan: PrecisionPlan, graphs: Sequence[CapturedGraph], updates: Collection[str]) -> list[str]:
    """One line a rule: how many of the slots known so far it decides."""
    decided = first_match(plan.rules)
    operands = decided.counts({slot.name for graph in graphs for slot in graph.slots})
    sums = decided.counts(_accumulators(graphs))
    summing = any(graph.accumulates for graph in graphs)
    lines = []
    stored, updated = decided.counts(_results(graphs)), decided.counts(updates)
    every = zip(plan.rules, operands, sums, stored, updated, strict=True)
    for rule, slots, accumulators, results, steps in every:
        decides = [f"{results} results"] * rule.decides_results + [f"{steps} updates"] * rule.decides_updates
        decides = decides or [f"{slots} slots"]
        decides += [f"{accumulators} accumulators"] * (summing and rule.decides_sums)
        lines.append(f"{rule} decides {' and '.join(decides)}")
    return lines


def _results(graphs: Sequence[CapturedGraph]) -> set[str]:
    """Names of those that can be rounded."""
    return {result.slot.name for graph in graphs if graph.rounds_results for result in graph.results}


def _accumulators(graphs: Sequence[CapturedGraph]) -> set[str]:
    return {slot.name for graph in graphs for product in graph.products for slot in product.accumulators}


def _narrower(plan: PrecisionPlan, graphs: Sequence[CapturedGraph]) -> list[str]:
    """Where a slot's tensors have fewer values than the plan's format, so that they and not the plan decide."""
    found: dict[tuple[str, str], dict[str, None]] = {}
    for graph in graphs:
        for product in graph.products:
            for operand in product.operands:
                wanted, own = plan.precision(operand.slot.name), operand.computed_in(plan)
                if wanted.format != own.format:
                    found.setdefault((wanted.format.name, own.format.name), {})[product.op] = None
    return [
        f"computed in {dtype}, the dtype of the tensors, where the plan has {wanted}: {', '.join(ops)}"
        for (wanted, dtype), ops in found.items()
    ]


def _unscaled_integers(plan: PrecisionPlan, graphs: Sequence[CapturedGraph]) -> list[str]:
    """Where most values of a net are too small for the format."""
    found: dict[FixedPoint, dict[str, None]] = {}
    for graph in graphs:
        for product in graph.products:
            for operand in product.operands:
                own = plan.precision(operand.slot.name)
                if isinstance(own.format, FixedPoint) and own.format.quantum >= 1 and own.scaling is None:
                    found.setdefault(own.format, {})[product.op] = None
    return [
        f"{fmt.name} without a scaling, so that values below {fmt.quantum / 2:g} become 0: {', '.join(ops)}"
        for fmt, ops in found.items()
    ]


def _inside_kernels(graphs: Sequence[CapturedGraph]) -> list[str]:
    """What plans do not reach."""
    fused = {product.op for graph in graphs for product in graph.products if not product.accumulators}
    if not fused:
        return []
    return [f"scores and sums as the kernel computes them, whatever the plan: {', '.join(sorted(fused))}"]


def _without_kernels(graphs: Sequence[CapturedGraph]) -> list[str]:
    """What a backend with kernels of its own ran without one, by reason."""
    found: dict[str, dict[str, None]] = {}
    for graph in graphs:
        for owner in graph.kernel_owners:
            for own in owner.listing().remaining:
                found.setdefault(own.reason, {})[f"{own.half} {own.name}"] = None
    return [f"without a kernel of precc's: {', '.join(names)}: {reason}" for reason, names in found.items()]


def _uncounted(graphs: Sequence[CapturedGraph]) -> list[str]:
    ops = {product.op for graph in graphs for product in graph.products if depends_on_data(product.multiply_adds)}
    return [f"multiply-adds not counted, for their size depends on data: {', '.join(sorted(ops))}"] if ops else []


def _executed(executed: Mapping[str, int]) -> list[str]:
    total = sum(executed.values())
    if not total:
        return []
    ordered = sorted(executed.items(), key=lambda kv: -kv[1])
    shares = [f"{name} {work / total:.1%}" for name, work in ordered if work / total >= _NAMED]
    others = sum(work / total < _NAMED for work in executed.values())
    shares += [f"{others} other{'s' * (others > 1)} below {_NAMED:.1%}"] * bool(others)
    return [f"executed so far: {total:,} multiply-adds: " + ", ".join(shares)]


def _not_rounded(graphs: Sequence[CapturedGraph], *, captured_whole: bool) -> list[str]:
    found = {record for graph in graphs for record in graph.unrounded}
    if not found:
        return ["not rounded: no product that precc knows of"] if graphs and captured_whole else []
    ordered = sorted(found, key=lambda record: (record.layer, record.reason))
    return [f"not rounded: {record.layer or '(root)'}: {record.reason}" for record in ordered]
