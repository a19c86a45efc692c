"""What controllers decided, and why: a table of one row a decision or event, kept with the net."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from hashlib import sha256
from typing import Any
from weakref import WeakMethod

from rich.table import Table

from precc.errors import PlanError
from precc.extras import imported
from precc.plan import PrecisionPlan
from precc.table_text import table_text

__all__ = ["TEXT_COLUMNS", "History", "HistoryRow"]

#: Rows that a printed history shows, the last ones.
_SHOWN = 20

#: Whole numbers from which on nothing is counted or measured.
_BEYOND = 2**63


@dataclass(frozen=True, slots=True)
class HistoryRow:
    """One decision or event.

    Args:
        step: of the training, counted by the controller, from 0.
        controller: name of its class.
        event: what happened, such as ``accept``, ``refine``, ``nonfinite``.
        reason: why, in a clause, with the numbers.
        plan: digest of the plan after it; `History.plans` has the plan.
        average_bits: of that plan; None where it is not known.
        level: of arithmetic, 0 the coarsest.
        radius: of a trust region, in the 2-norm of all parameters.
        budget: of errors, in the units that the controller documents; of `NoiseAware`, ``theta**2`` times the noise.
        epsilon: absolute error of the loss.
        predicted_reduction: of the objective.
        actual_reduction: likewise.
        loss: of the step; in rows of analyses the running mean.
        noise: variance of the gradient of a batch, in the square of the gradient's norm.
        noise_source: where that is from.
    """

    step: int
    controller: str
    event: str
    reason: str = ""
    plan: str | None = None
    average_bits: float | None = None
    level: int | None = None
    radius: float | None = None
    budget: float | None = None
    epsilon: float | None = None
    predicted_reduction: float | None = None
    actual_reduction: float | None = None
    loss: float | None = None
    noise: float | None = None
    noise_source: str | None = None


#: Sees a row of a history.
Watcher = Callable[[HistoryRow], None]

_COLUMNS = tuple(entry.name for entry in fields(HistoryRow))
_WHOLE = ("step", "level")

#: Columns that hold text; the others hold numbers.
TEXT_COLUMNS = ("controller", "event", "reason", "plan", "noise_source")
_NEEDED = ("step", "controller", "event", "reason")


class History(Sequence[HistoryRow]):
    """The rows, oldest first, and the plans that they name.

    >>> history = History()
    >>> history.note(step=3, controller="TrustRegion", event="refine", reason="epsilon 0.2 of 0.1", level=1)
    >>> history[-1].level, len(history), history.columns()["event"]
    (1, 1, ['refine'])
    """

    def __init__(self, rows: Sequence[HistoryRow] = (), plans: Mapping[str, PrecisionPlan] | None = None) -> None:
        self._rows = list(rows)
        self._watchers: list[WeakMethod[Watcher]] = []
        self.plans = dict(plans or {})  #: by digest

    def note(
        self, *, step: int, controller: str, event: str, reason: str = "", plan: PrecisionPlan | None = None, **own: Any
    ) -> None:
        """Append a row; `own` are further fields of `HistoryRow`."""
        digest = None if plan is None else self._digest(plan)
        bits = None if plan is None else _average_bits(plan)
        known = {name: _plain(name, value) for name, value in own.items()}
        self._rows.append(HistoryRow(step, controller, event, reason, digest, bits, **known))
        self._show(self._rows[-1])

    def watch(self, see: "Watcher") -> None:
        """Show each row from now on to a method, as long as its object lives."""
        self._watchers.append(WeakMethod(see))

    def unwatch(self, see: "Watcher") -> None:
        """Show them no more."""
        self._watchers = [own for own in self._watchers if own() not in (None, see)]

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy has the rows, and nobody watches it."""
        return History, (self._rows, self.plans)

    def _show(self, row: HistoryRow) -> None:
        for own in list(self._watchers):
            see = own()
            if see is not None:
                see(row)

    def _digest(self, plan: PrecisionPlan) -> str:
        last = self._rows[-1].plan if self._rows else None
        if last is not None and self.plans[last] == plan:
            return last  # a training has many rows, and few plans
        digest = sha256(plan.to_json().encode()).hexdigest()[:12]
        self.plans.setdefault(digest, plan)
        return digest

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        return self._rows[index]

    def __iter__(self) -> Iterator[HistoryRow]:
        return iter(self._rows)

    def __eq__(self, other: object) -> bool:
        """Whether all rows are equal, and the plans that they name."""
        if not isinstance(other, History):
            return NotImplemented
        return self._rows == other._rows and self.plans == other.plans

    __hash__ = None  # type: ignore[assignment]  # it grows

    def of(self, controller: str) -> "History":
        """The rows of one controller, by the name of its class."""
        return History([row for row in self._rows if row.controller == controller], self.plans)

    def columns(self) -> dict[str, list[Any]]:
        """Values by column, None where a row has none."""
        return {name: [getattr(row, name) for row in self._rows] for name in _COLUMNS}

    def to_pandas(self) -> Any:
        """A ``pandas.DataFrame``, None as missing; needs the extra ``tables``, or raises ExtraError."""
        pandas = imported("pandas", "tables")
        frame = pandas.DataFrame(self.columns(), columns=list(_COLUMNS))
        kinds = {
            name: "Int64" if name in _WHOLE else "string" if name in TEXT_COLUMNS else "Float64" for name in _COLUMNS
        }
        return frame.astype(kinds)

    def to_arrow(self) -> Any:
        """A ``pyarrow.Table``; needs the extra ``tables``, or raises ExtraError."""
        arrow = imported("pyarrow", "tables")
        kinds = {
            name: arrow.int64() if name in _WHOLE else arrow.string() if name in TEXT_COLUMNS else arrow.float64()
            for name in _COLUMNS
        }
        return arrow.table(self.columns(), schema=arrow.schema(list(kinds.items())))

    def __str__(self) -> str:
        if not self._rows:
            return "history: no rows yet"
        shown = self._rows[-_SHOWN:]
        names = [name for name in _COLUMNS if any(getattr(row, name) is not None for row in shown)]
        more = len(self._rows) - len(shown)
        table = Table(*names, title=f"history: the last {len(shown)} of {len(self._rows)} rows" if more else "history")
        for row in shown:
            table.add_row(*(_shown(getattr(row, name)) for name in names))
        return table_text(table)

    __repr__ = __str__

    def to_json(self) -> dict[str, Any]:
        """As plain data, for checkpoints."""
        return {
            "rows": [{name: own for name in _COLUMNS if (own := getattr(row, name)) is not None} for row in self._rows],
            "plans": {digest: plan.to_json() for digest, plan in self.plans.items()},
        }

    @classmethod
    def from_json(cls, data: Any) -> "History":
        """What `to_json` gave.

        Raises:
            PlanError: it is no history.
        """
        if not isinstance(data, Mapping) or set(data) != {"rows", "plans"} or not isinstance(data["rows"], list):
            raise PlanError(f"a history has rows and plans, unlike {data!r:.60}")
        plans = {str(digest): PrecisionPlan.from_json(text) for digest, text in dict(data["plans"]).items()}
        rows = [_row_of(row) for row in data["rows"]]
        unknown = next((row.plan for row in rows if row.plan is not None and row.plan not in plans), None)
        if unknown is not None:
            raise PlanError(f"a history names the plan {unknown!r}, and does not have it")
        return cls(rows, plans)

    def load(self, other: "History") -> None:
        """Put the rows of another in the place of these."""
        self._rows, self.plans = list(other), dict(other.plans)


def _row_of(data: Any) -> HistoryRow:
    whole = isinstance(data, Mapping) and set(_NEEDED) <= set(data) <= set(_COLUMNS)
    if not whole or not all(_fits(name, own) for name, own in data.items()):
        raise PlanError(f"not a row of a history, which has {', '.join(_COLUMNS)}: {data!r:.120}")
    return HistoryRow(**data)


def _fits(name: str, value: Any) -> bool:
    if name in TEXT_COLUMNS:
        return isinstance(value, str)
    if type(value) is int:
        return abs(value) < _BEYOND
    return type(value) is float and name not in _WHOLE


def _plain(name: str, value: Any) -> Any:
    """A number as Python has it, whatever library it is from."""
    return value if value is None or name in TEXT_COLUMNS else int(value) if name in _WHOLE else float(value)


def _average_bits(plan: PrecisionPlan) -> float | None:
    try:
        return plan.average_bits
    except PlanError:  # the work of its slots is not known before the first step
        return None


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else str(value)
    return "" if value is None else str(value)
