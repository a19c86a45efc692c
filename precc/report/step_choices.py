"""The table of choices of a report, from an analysis: bits and errors of each candidate in each slot of an operand."""

import numpy as np

from precc.analysis.analysis import Analysis
from precc.assignment.candidates import CANDIDATES
from precc.assignment.choice_costs import Palette
from precc.assignment.groups import Grouping, GroupKind, Share
from precc.assignment.step_choices import StepChoices
from precc.formats import format_of_dtype
from precc.plan import PrecisionPlan
from precc.precision import Precision
from precc.report.choice_table import ChoiceGroup, ChoiceTable
from precc.slots import Slot

__all__ = ["MOST_CHOICES", "choice_table"]

#: Slots up to which a report has the table if it is not asked for; so many take about two seconds.
MOST_CHOICES = 250


def choice_table(analysis: Analysis, plan: PrecisionPlan) -> ChoiceTable:
    """What each candidate of policies, and each precision of the plan in force, costs in bits and does to the step.

    Costs are parts of the average bits of an operand, as `precc.cost.operand_bits.OperandBits` counts them. Errors are
    linearised by chords to the plan that has one choice everywhere: of mixed plans they are rather too much. What the
    rules of the plan decide has one choice.

    Raises:
        AnalysisError, UnsupportedError: the analysis cannot predict the plan in force.
    """
    own = _in_force(analysis, plan)
    precisions = tuple(dict.fromkeys([*CANDIDATES, *own.values()]))
    palette = Palette.of(precisions, (None,), plan.rules, stored=_stored(analysis))
    choices = StepChoices.of(analysis, palette, Grouping(Share.NOTHING), inference=False)
    loss, gradient, _ = choices.errors_about(choices.uniform)
    total = sum(analysis.multiply_adds.values())
    groups = []
    for group, data in choices.graph.nodes(data=True):
        slots = [slot for slot in data["slots"] if not slot.is_result] if data["kind"] is GroupKind.SLOTS else []
        if slots:
            allowed = choices.known[group] & np.isin(range(palette.size), list(palette.allowed(data)))
            costs = _costs(analysis, slots, palette, total)
            groups.append(
                ChoiceGroup(
                    tuple(slot.name for slot in slots),
                    tuple(np.where(allowed, costs, np.inf).tolist()),
                    tuple(loss[group].tolist()),
                    tuple(gradient[group].tolist()),
                    _chosen([own[slot.name] for slot in slots], palette),
                )
            )
    labels = tuple(str(precision) for precision in palette.precisions)
    return ChoiceTable(labels, tuple(float(one.bits) for one in palette.precisions), "bits", tuple(groups))


def _in_force(analysis: Analysis, plan: PrecisionPlan) -> dict[str, Precision]:
    """The precision of each operand; of one that is not rounded a format of its tensor."""
    samples = analysis.findings.sensitivities.samples
    dtypes = {slot.name: sample.values.dtype for sample in samples for slot in sample.slots}
    return {name: plan.precision(name).kept_in(dtypes[name]) for name in analysis.operands}


def _stored(analysis: Analysis) -> Precision | None:
    """What rounds no result; None of an analysis without results."""
    if not analysis.results:
        return None
    formats = [format_of_dtype(own.values.dtype) for own in analysis.findings.sensitivities.samples]
    wide = any(own is not None and own.bits > 32 for own in formats)
    return Precision("float64" if wide else "float32")


def _costs(analysis: Analysis, slots: list[Slot], palette: Palette, total: int) -> list[float]:
    work = sum(analysis.multiply_adds[slot.name] for slot in slots)
    bits = [float(own.bits) for own in palette.precisions]
    return [work * own / total if total else 0.0 for own in bits] + [0.0] * (palette.size - len(bits))


def _chosen(own: list[Precision], palette: Palette) -> int | None:
    """The number of what all of a group have."""
    return palette.precisions.index(own[0]) if len(set(own)) == 1 else None
