"""How the formats of each layer changed while a net trained, decision by decision."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from precc.history import History, HistoryRow
from precc.plan import PrecisionPlan

__all__ = ["FilmStrip"]


@dataclass(frozen=True, slots=True)
class FilmStrip:
    """A matrix of formats, ops by decisions, without the rows that repeat a plan.

    Args:
        ops: names of the rows, in the order of the net.
        columns: of the matrix: names of the products' roles and operands that are shown, such as ``fprop.weight``.
        formats: names of formats; the numbers below are positions among them, -1 where an op has no such slot.
        plans: of each plan that was in force, ``[plans][columns][ops]`` positions of formats.
        frames: which of the plans each row of the history ended with; -1 before the first that is known.
        rows: of the history, oldest first.
    """

    ops: tuple[str, ...]
    columns: tuple[str, ...]
    formats: tuple[str, ...]
    plans: tuple[tuple[tuple[int, ...], ...], ...]
    frames: tuple[int, ...]
    rows: tuple[HistoryRow, ...]

    @classmethod
    def of(cls, history: History, slots: Sequence[str], format_of: Callable[[PrecisionPlan, str], str]) -> "FilmStrip":
        """The film of a history.

        Args:
            history: of a net.
            slots: names of the slots of operands, in the order of the net.
            format_of: the name of the format that a slot has under a plan.
        """
        places = {slot: slot.rpartition("/")[::2] for slot in slots}
        ops = tuple(dict.fromkeys(op for op, _ in places.values()))
        columns = tuple(dict.fromkeys(column for _, column in places.values()))
        numbers: dict[str, int] = {}
        cells = [_cells(plan, places, ops, columns, format_of, numbers) for plan in history.plans.values()]
        known = {digest: number for number, digest in enumerate(history.plans)}
        frames, last = [], -1
        for row in history:
            last = known.get(row.plan or "", last)
            frames.append(last)
        return cls(ops, columns, tuple(numbers), tuple(cells), tuple(frames), tuple(history))


def _cells(
    plan: PrecisionPlan,
    places: dict[str, tuple[str, str]],
    ops: Sequence[str],
    columns: Sequence[str],
    format_of: Callable[[PrecisionPlan, str], str],
    numbers: dict[str, int],
) -> tuple[tuple[int, ...], ...]:
    rows, lines = ({name: k for k, name in enumerate(names)} for names in (ops, columns))
    cells = [[-1] * len(ops) for _ in columns]
    for slot, (op, column) in places.items():
        cells[lines[column]][rows[op]] = numbers.setdefault(format_of(plan, slot), len(numbers))
    return tuple(map(tuple, cells))
