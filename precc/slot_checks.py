"""Whether the names that a plan or a state brings are of slots of a net."""

from collections.abc import Collection, Iterable, Sequence
from difflib import get_close_matches

from torch import nn

from precc.captured_graph import CapturedGraph
from precc.errors import PlanError
from precc.slots import ATTENTION, RESULT, Slot, names_update, update_slots

__all__ = ["brought_slots", "check_slots", "slot_names", "unknown_slots"]


def check_slots(
    names: Collection[str],
    brought: Iterable[str],
    graphs: Sequence[CapturedGraph],
    net: nn.Module,
    *,
    awaited: Collection[str] = (),
    namer: str = "the plan",
) -> None:
    """Refuse unknown slots, once a training graph is known: an inference graph has a subset.

    Raises:
        PlanError: a name is of no slot.
    """
    unknown = unknown_slots(names, brought, graphs, net, awaited=awaited)
    if unknown:
        known = _of_kind(unknown[0], graphs, net)
        some = ", ".join(repr(name) for name in unknown[:3])
        raise PlanError(
            f"{namer} names {len(unknown)} slot(s) that the net does not have: {some}; {_nearest(unknown[0], known)}"
            + _attention_hint(unknown, known)
        )


def _of_kind(wanted: str, graphs: Sequence[CapturedGraph], net: nn.Module) -> set[str]:
    """The slots that one of such a name could be: of updates, with results, or operands."""
    if names_update(wanted):
        return update_slots(net)
    if RESULT in wanted.rpartition(".")[2]:
        return slot_names(graphs)
    return {slot.name for graph in graphs for slot in graph.slots}


def _nearest(wanted: str, known: Collection[str]) -> str:
    """The slots that are meant, perhaps, or else some."""
    layer = wanted.rpartition("/")[0].partition("/")[0]
    same = [name for name in known if name.startswith(f"{layer}/")] if layer else []
    near = get_close_matches(wanted, same, n=1, cutoff=0.6) or get_close_matches(wanted, known, n=1, cutoff=0.8)
    if near:
        return f"did you mean {near[0]!r}?"
    own = sorted(name for name in known if name.startswith((f"{wanted}/", f"{wanted}.")))
    has = own or sorted(known)
    way = f"; for all of them: precc.Rule({wanted!r}, ...)" if own else ""
    if "*" in wanted:
        path = wanted.partition("/")[0]
        way = f"; a plan names slots one by one, and precc.Rule({path!r}, format=...) all those of the modules that fit"
    return f"its slots {'there ' * bool(own)}are " + (", ".join(has[:6]) or "none") + ", ..." * (len(has) > 6) + way


def _attention_hint(wanted: Iterable[str], known: Iterable[str]) -> str:
    """The way out, where slots of attention are wanted that a net compiled the other way has; else empty."""
    ops = {tuple(name.split("/")[:-1]) for name in wanted}  # as text: it may be no slot's name
    fused = {slot.layer for slot in map(Slot.parse, known) if slot.family == ATTENTION}
    if not fused and any(op[-1:] and op[-1].startswith(ATTENTION) for op in ops):
        return '; attention is opened into its products: precc.compile(..., attention="fused") keeps it as one op'
    if any("/".join(op[:-1]) in fused for op in ops):
        return '; attention is one op: precc.compile(..., attention="products") opens it into its products'
    return ""


def unknown_slots(
    names: Collection[str],
    brought: Iterable[str],
    graphs: Sequence[CapturedGraph],
    net: nn.Module,
    *,
    awaited: Collection[str] = (),
) -> list[str]:
    """The names that are of no slot; none before a training graph is known.

    Args:
        names: of slots, perhaps.
        brought: slots of earlier captures; those of the net's modules may belong to a graph that is still to come.
        graphs: those known.
        net: whose modules they are.
        awaited: paths of modules whose slots are still to come, by graphs of their own.
    """
    if not names or not any(graph.training for graph in graphs):
        return []  # a plan that names no slot fits any net: controllers switch between such plans at each step
    strange = {*names} - slot_names(graphs) - brought_slots(brought, net)
    if any(map(names_update, strange)):
        strange -= update_slots(net)
    return sorted(name for name in strange if not awaited or Slot.parse(name).layer not in awaited)


def slot_names(graphs: Iterable[CapturedGraph]) -> set[str]:
    """Names of the slots of these graphs, accumulators and results too."""
    graphs = tuple(graphs)
    operands = {slot.name for graph in graphs for slot in graph.slots}
    sums = {slot.name for graph in graphs for product in graph.products for slot in product.accumulators}
    return operands | sums | {result.slot.name for graph in graphs for result in graph.results}


def brought_slots(brought: Iterable[str], net: nn.Module) -> set[str]:
    """Names of those of these slots that are of modules of a net, with accumulators and results of their products."""
    layers = {path for path, _ in net.named_modules()}
    slots = [slot for slot in map(Slot.parse, brought) if slot.layer in layers]
    return {name for slot in slots for name in (slot.name, *(own.name for own in (*slot.accumulators, *slot.results)))}
