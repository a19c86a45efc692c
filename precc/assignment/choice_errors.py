"""Errors of choices: of each slot and sum in each precision, summed over the slots of a group."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from precc.analysis.analysis import Analysis
from precc.analysis.slot_error import SlotError
from precc.assignment.choice_costs import Palette
from precc.assignment.groups import GroupKind
from precc.assignment.problem import Floats

__all__ = ["ChoiceErrors"]

_FIELDS = ("loss_mean", "loss_variance", "gradient", "mean_square", "lost", "coherent")


@dataclass(frozen=True, slots=True, eq=False)
class ChoiceErrors:
    """Of slots and sums by themselves.

    Args:
        names: of the slots and sums, [slots].
        groups: of each, [slots].
        means: of the loss error, [slots, choices].
        variances: of the loss error.
        gradients: mean squares of the gradient's error, relative, without what flips.
        squares: mean squares of the errors of values.
        lost: share of the sum of squares that is lost.
        coherent: what of `gradients` comes from the means of errors.
        known: whether all of these are finite; they are 0 where they are not.
    """

    names: tuple[str, ...]
    groups: Sequence[int]
    means: Floats
    variances: Floats
    gradients: Floats
    squares: Floats
    lost: Floats
    coherent: Floats
    known: NDArray[np.bool_]

    @classmethod
    def of(cls, analysis: Analysis, graph: "nx.MultiGraph[int]", palette: Palette) -> "ChoiceErrors":
        """Of the choices that rules leave; those of others are 0."""
        names, groups, rows = [], [], []
        for group, data in graph.nodes(data=True):
            allowed = palette.allowed(data)
            for name, alone in _members(analysis, data, palette):
                names.append(name)
                groups.append(group)
                rows.append([_row(alone(k)) if k in allowed else (0.0,) * len(_FIELDS) for k in range(palette.size)])
        table = np.array(rows).reshape(len(names), palette.size, len(_FIELDS))
        known = np.isfinite(table).all(-1)
        fields = np.moveaxis(np.where(known[..., None], table, 0.0), -1, 0)
        means, variances, gradients, squares, lost, coherent = fields
        return cls(tuple(names), groups, means, variances, gradients, squares, lost, coherent, known)

    def by_group(self, values: Floats, groups: int) -> Floats:
        """Sums over the slots of each group, [groups, choices]."""
        found = np.zeros((groups, values.shape[1]))
        np.add.at(found, np.array(self.groups, np.int64), values)
        return found


def _row(error: SlotError) -> tuple[float, ...]:
    return tuple(getattr(error, name) for name in _FIELDS)


def _members(
    analysis: Analysis, data: dict[str, Any], palette: Palette
) -> list[tuple[str, Callable[[int], SlotError]]]:
    """Names of the slots or the sum of a group, with the error of each choice there."""
    if data["kind"] is GroupKind.SLOTS:
        names = [slot.name for slot in data["slots"]]
        return [(name, _of_precisions(analysis, name, palette, names)) for name in names]
    if data["kind"] is GroupKind.SUM:
        name = data["product"].accumulators[0]
        return [(name, lambda k: analysis.alone_in_sums(name, palette.sums[k]))]
    return []


def _of_precisions(analysis: Analysis, name: str, palette: Palette, group: list[str]) -> Callable[[int], SlotError]:
    """Of one slot of a group; an operand that shows a result of the group may have been rounded there."""
    source = analysis.sources.get(name)

    def alone(k: int) -> SlotError:
        own = palette.precisions[k]
        before = source is not None and source.slot in group and source.repeats(own)
        return SlotError(0.0, 0.0, 0.0, 0.0, 0.0) if before else analysis.alone(name, own)

    return alone
