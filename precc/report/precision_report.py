"""The per-layer precision report of a net, as text."""

import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from precc.annotations import Operand, Product
from precc.captured_graph import CapturedGraph, depends_on_data, size_value
from precc.cost.plan_cost import PlanCost
from precc.first_match import first_match
from precc.formats import FixedPoint
from precc.history import History
from precc.plan import PrecisionPlan
from precc.report.analysed_step import AnalysedStep
from precc.report.choice_table import ChoiceTable
from precc.report.layer_row import LayerRow
from precc.report.slot_row import SlotRow
from precc.report.source_listing import SourceListing
from precc.slots import ADDITION, Role

__all__ = ["PrecisionReport"]

_ROLES = (
    (Role.FPROP,),
    (Role.DGRAD, Role.DGRAD_A),
    (Role.WGRAD, Role.DGRAD_B),
)


_WIDEST = 10_000  # a line is as long as its names: a table that is made to fit leaves out columns


@dataclass(frozen=True, slots=True)
class PrecisionReport:
    """What each layer computes in, and what that does to the step; what was compiled, and what was not rounded.

    Args:
        title: name of the net.
        rows: of its ops.
        notes: what was compiled, decided, and not rounded, in sentences.
        plan: in force.
        slots: of operands, sums and results.
        history: of the training.
        step: that was analysed; None: nothing is known of errors.
        cost: of the step under the plan.
        choices: what other formats would cost and do; None where they are not known.
        source: of the model's modules.
        missing: what is not known, and how to have it, in sentences.
    """

    title: str
    rows: tuple[LayerRow, ...]
    notes: tuple[str, ...]
    plan: PrecisionPlan
    slots: tuple[SlotRow, ...] = ()
    history: History = field(default_factory=History)
    step: AnalysedStep | None = None
    cost: PlanCost | None = None
    choices: ChoiceTable | None = None
    source: tuple[SourceListing, ...] = ()
    missing: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        *,
        title: str,
        backend: str,
        lacking: str,
        plan: PrecisionPlan,
        live: bool,
        graphs: Sequence[CapturedGraph],
        graph_breaks: Sequence[str],
        outside: Sequence[str],
        executed: Mapping[str, int],
        events: Mapping[str, int],
        updates: Collection[str] = (),
        training: Sequence[str] = (),
    ) -> "PrecisionReport":
        """The report; `updates` are the slots of updates, `training` lines on what is done outside of graphs."""
        rows = _rows(plan, graphs)
        notes = [_compiled(backend, graphs, [row.multiply_adds for row in rows], live=live)]
        notes += _rules(plan, graphs, updates)
        notes += training
        notes += [f"a faster backend cannot run here: {lacking}"] * bool(lacking)
        notes += _narrower(plan, graphs)
        notes += _unscaled_integers(plan, graphs)
        notes += _inside_kernels(graphs)
        notes += _uncounted(graphs)
        notes += _executed(executed)
        if events:
            notes += ["events: " + ", ".join(f"{count} {name}" for name, count in sorted(events.items()))]
        notes += _not_rounded(graphs, captured_whole=not (graph_breaks or outside))
        notes += [f"graph break: {reason}; what lies between the graphs runs unrounded" for reason in graph_breaks]
        if outside:
            notes += [
                f"in no graph so far (unused, in a like module's graph, or unrounded outside): {', '.join(outside)}"
            ]
        notes += [
            f"a graph starts in {graph.start!r} after a graph break: further modules of its class that run "
            "the same code share its slots"
            for graph in graphs
            if graph.start != graph.region
        ]
        return cls(title, rows, tuple(notes), plan)

    def __str__(self) -> str:
        table = Table(title=f"precision of {self.title}", title_justify="left", box=None, pad_edge=False)
        for heading in ("layer", "op", "fprop", "dgrad", "wgrad"):
            table.add_column(heading, no_wrap=True)
        table.add_column("multiply-adds", justify="right", no_wrap=True)
        table.add_column("share", justify="right", no_wrap=True)
        for row in self.rows:
            table.add_row(row.layer or "(root)", row.op, *row.formats, f"{row.multiply_adds:,}", f"{row.share:.1%}")
        text = io.StringIO()
        Console(file=text, width=_WIDEST, color_system=None, highlight=False, markup=False).print(table)
        lines = [line.rstrip() for line in text.getvalue().splitlines()]
        return "\n".join([*lines, *self.notes])


def _rows(plan: PrecisionPlan, graphs: Sequence[CapturedGraph]) -> tuple[LayerRow, ...]:
    ops: dict[str, dict[Role, Product]] = {}
    for graph in graphs:
        for product in graph.products:
            ops.setdefault(product.op, {}).setdefault(product.role, product)
    work = {op: sum(size_value(product.multiply_adds, {}) for product in roles.values()) for op, roles in ops.items()}
    total = sum(work.values())
    products = tuple(
        LayerRow(
            layer=_first(roles).operands[0].slot.layer,
            op=op.rpartition("/")[2],
            formats=_formats(roles, plan),
            multiply_adds=work[op],
            share=work[op] / total if total else 0.0,
        )
        for op, roles in ops.items()
    )
    return products + _additions(plan, graphs)


def _additions(plan: PrecisionPlan, graphs: Sequence[CapturedGraph]) -> tuple[LayerRow, ...]:
    """The sums of two activations that are rounded where they are stored."""
    every = {result.slot: result for graph in graphs for result in graph.results if result.slot.family == ADDITION}
    rounded = [(slot, result) for slot, result in every.items() if result.is_rounded(plan)]
    return tuple(
        LayerRow(slot.layer, slot.op.rpartition("/")[2], (_stored(result, plan), "-", "-"), 0, 0.0)
        for slot, result in rounded
    )


def _stored(result: Operand | None, plan: PrecisionPlan) -> str:
    rounded = result is not None and result.is_rounded(plan)
    return f"stored {plan.precision(result.slot.name)}" if result is not None and rounded else ""


def _first(roles: Mapping[Role, Product]) -> Product:
    return next(iter(roles.values()))


def _formats(roles: Mapping[Role, Product], plan: PrecisionPlan) -> tuple[str, str, str]:
    texts = []
    for column in _ROLES:
        product = next((roles[role] for role in column if role in roles), None)
        texts.append("-" if product is None else _operand_formats(product, plan))
    return texts[0], texts[1], texts[2]


def _operand_formats(product: Product, plan: PrecisionPlan) -> str:
    own = {operand.slot.operand: str(operand.computed_in(plan)) for operand in product.operands}
    accumulator = product.sums(plan)
    said = ["" if accumulator is None else f"sums {accumulator}", _stored(product.result, plan)]
    sums = "".join(f", {own}" for own in said if own)
    if len(set(own.values())) == 1:
        return next(iter(own.values())) + sums
    return " x ".join(f"{operand} {precision}" for operand, precision in own.items()) + sums


def _compiled(backend: str, graphs: Sequence[CapturedGraph], work: Sequence[int], *, live: bool) -> str:
    if not graphs:
        return "no graph captured yet: call the net once"
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


def _uncounted(graphs: Sequence[CapturedGraph]) -> list[str]:
    ops = {product.op for graph in graphs for product in graph.products if depends_on_data(product.multiply_adds)}
    return [f"multiply-adds not counted, for their size depends on data: {', '.join(sorted(ops))}"] if ops else []


def _executed(executed: Mapping[str, int]) -> list[str]:
    total = sum(executed.values())
    if not total:
        return []
    shares = (f"{name} {work / total:.1%}" for name, work in sorted(executed.items(), key=lambda kv: -kv[1]))
    return [f"executed so far: {total:,} multiply-adds: " + ", ".join(shares)]


def _not_rounded(graphs: Sequence[CapturedGraph], *, captured_whole: bool) -> list[str]:
    found = {record for graph in graphs for record in graph.unrounded}
    if not found:
        return ["not rounded: no product that precc knows of"] if graphs and captured_whole else []
    ordered = sorted(found, key=lambda record: (record.layer, record.reason))
    return [f"not rounded: {record.layer or '(root)'}: {record.reason}" for record in ordered]
