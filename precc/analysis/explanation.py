"""Why a slot has its format, in a few lines."""

from difflib import get_close_matches

from precc.analysis.analysis import Analysis
from precc.analysis.calibration import group_of
from precc.analysis.error_estimate import ErrorEstimate
from precc.analysis.records import SlotRecord
from precc.errors import AnalysisError, PlanError, UnsupportedError
from precc.formats import parse_format
from precc.plan import PrecisionPlan
from precc.precision import Precision
from precc.slots import Slot

__all__ = ["explained"]

#: What may stand in the place of a slot's precision: from coarse to fine.
_LADDER = ("e2m1", "e3m2", "e4m3", "e5m2", "e4m5", "float16", "bfloat16", "float32")

#: Slots of a module, in an error.
_LISTED = 12


def explained(analysis: Analysis, slot: str, plan: PrecisionPlan) -> str:
    """Range, condition, sensitivity, share of the plan's error, cost, and what the next formats would change.

    Raises:
        PlanError: there is no such slot.
    """
    name = full_name(analysis, slot)
    record = analysis.records[name]
    if record.sensitivity is None:
        head = f"{name}: sums in {plan.accumulator(name) or 'the format of the tensors'}"
        return "\n".join([head, *_values(record), *_unknown(analysis, name)])
    own = _precision(analysis, name, plan)
    lines = [f"{name}: {own}", *_values(record), *_losses(record, own), *_sensitivity(record)]
    lines += [
        *_unknown(analysis, name),
        *_calibration(analysis, name),
        *_shares(analysis, name, plan),
        _cost(analysis, record, own),
        *_others(analysis, name, own),
    ]
    return "\n".join([*lines, f"  analysed     {analysis.batch} of the batch"] if analysis.batch.partial else lines)


def _precision(analysis: Analysis, name: str, plan: PrecisionPlan) -> Precision:
    """Under a plan; of a result that is not rounded that of its tensor."""
    own = plan.precision(name)
    if not analysis.records[name].slot.is_result:
        return own
    samples = analysis.findings.sensitivities.samples
    return own.kept_in(next(one.values.dtype for one in samples if any(slot.name == name for slot in one.slots)))


def full_name(analysis: Analysis, slot: str) -> str:
    """The whole name of a slot that is given whole or without its op family.

    Raises:
        PlanError: there is none, or several.
    """
    if not isinstance(slot, str):
        raise PlanError(f"a slot goes by its name, such as 'conv2/fprop.weight', not {slot!r:.40}")
    if slot in analysis.records:
        return slot
    meant = [name for name in analysis.records if short_name(name) == slot]
    if len(meant) == 1:
        return meant[0]
    hint = f": it is one of {', '.join(meant)}" if meant else _near(analysis, slot)
    raise PlanError(f"{analysis.title} has no slot {slot!r}{hint}")


def _near(analysis: Analysis, slot: str) -> str:
    """What may be meant: the slots of the module that is named, unless one of them is meant for sure."""
    layer = slot.partition("/")[0]
    layers = {name: Slot.parse(name).layer for name in analysis.records}
    own = [short_name(name) for name, where in layers.items() if where == layer or where.startswith(f"{layer}.")]
    among = own or [*analysis.records, *map(short_name, analysis.records)]
    near = get_close_matches(slot, among, n=1, cutoff=0.85 if own else 0.6)
    if near or not own:
        return f": did you mean {near[0]!r}?" if near else ""
    return f": {layer!r} has {', '.join(own[:_LISTED])}{', ...' if len(own) > _LISTED else ''}"


def short_name(name: str) -> str:
    """Without the op family: ``conv2/fprop.weight``."""
    slot = Slot.parse(name)
    call = f"#{slot.call}" if slot.call else ""
    return f"{slot.layer}{call}/{slot.role.value}.{slot.operand}"


def _values(record: SlotRecord) -> list[str]:
    values = record.value_range
    zeros = f", {values.zeros / values.elements:.0%} zeros" if values.elements else ""
    lines = [f"  range        {values.amin:.1e} to {values.amax:.1e} in {values.elements:,} values{zeros}"]
    if record.condition is not None:
        kappa = record.condition
        lines.append(f"  condition    of its product: median {kappa.median:.3g}, 99% below {kappa.p99:.3g}")
    return lines


def _losses(record: SlotRecord, own: Precision) -> list[str]:
    """What the slot's precision loses of its values, where that was counted."""
    lost = record.value_range.losses.get(own)
    if lost is None or not (lost.underflow or lost.overflow):
        return []
    return [f"  lost         {lost.underflow_share:.2%} become 0, {lost.overflow_share:.2%} overflow in {own}"]


def _sensitivity(record: SlotRecord) -> list[str]:
    own = record.sensitivity
    assert own is not None
    gradient = f"the gradient by {own.gradient:.2g}%"
    loss = f"the loss by {own.loss / 100:.1e}" if own.loss else "the loss not at all"
    return [f"  sensitivity  relative errors of 1% move {loss}, {gradient}"]


def _unknown(analysis: Analysis, name: str) -> list[str]:
    """Operators without a derivative that the slot's errors pass."""
    passed = [(own.where, own.slots.of(name)) for own in analysis.findings.unknown if own.slots.of(name)]
    return [f"  unknown      what reaches the {' and the '.join(what)} through {where}" for where, what in passed]


def _calibration(analysis: Analysis, name: str) -> list[str]:
    """What measurements said of predictions for the group of the slot."""
    group = group_of(name)
    count = analysis.calibration.counts().get(group, 0)
    if not count:
        return []
    own = analysis.calibration.of(name)
    times = f"the loss's deviation {own.loss:.2f}, the gradient's error {own.gradient:.2f} times what is predicted"
    return [f"  calibration  {group}, {count} measured: {times}"]


def _shares(analysis: Analysis, name: str, plan: PrecisionPlan) -> list[str]:
    try:
        every = analysis.contributions(plan)
    except (AnalysisError, UnsupportedError) as error:
        return [f"  error        not known ({error})"]
    own = every.get(name)
    if own is None:
        return ["  error        rounds nothing"]
    loss = sum(one.loss**2 for one in every.values())
    gradient = sum(one.gradient**2 for one in every.values())
    shares = [
        f"{part**2 / whole:.1%} of the {what}'s"
        for what, part, whole in (("loss", own.loss, loss), ("gradient", own.gradient, gradient))
        if whole
    ]
    budget = f" (its budget: {plan.provenance.budget})" if plan.provenance.budget else ""
    return [f"  error        {_error(own)}; {' and '.join(shares)} squared error under the plan{budget}"]


def _error(own: ErrorEstimate) -> str:
    partial = " (partial)" if own.unknown else ""
    return f"loss {own.loss_mean:+.1e} +- {own.loss:.1e}, gradient {own.gradient:.2%}{partial}"


def _cost(analysis: Analysis, record: SlotRecord, own: Precision) -> str:
    if record.slot.is_result:
        kept = ", which the backward reads" * record.saved
        return f"  cost         {own.bits:g} bits for {record.outputs:,} results{kept}"
    total = sum(analysis.multiply_adds.values())
    share = record.multiply_adds / total if total else 0.0
    return f"  cost         {own.bits:g} bits for {record.multiply_adds:,} multiply-adds, {share:.1%} of all"


def _others(analysis: Analysis, name: str, own: Precision) -> list[str]:
    """What coarser and finer formats than the slot's would do, scaled as it is."""
    lines = []
    for other in _ladder(own):
        try:
            estimate = analysis.predict(PrecisionPlan("float64", {name: other}))
        except (AnalysisError, UnsupportedError) as error:
            lines.append(f"  instead      {other}: not known ({error})")
            continue
        lines.append(f"  instead      {other}: {_error(estimate)}")
    return lines


def _ladder(own: Precision) -> list[Precision]:
    formats = [parse_format(name) for name in _LADDER]
    choices = [Precision(fmt, own.rounding, "tensor" if fmt.bits < 16 else None) for fmt in formats]
    finer = [other for other in choices if other.bits > own.bits][:2]
    coarser = [other for other in choices if other.bits < own.bits][-2:]
    return [*coarser, *finer]
