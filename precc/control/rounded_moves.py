"""What the plan of a net says of updates, in the steps of an optimizer that tries them before it takes them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from precc.control.linear_step import Values
from precc.module import PrecisionModule, session_of
from precc.plan import PrecisionPlan
from precc.rounding import draw_key
from precc.updates.round_update import UpdateRows, lost_to_nearest, round_update

__all__ = ["RoundedMoves"]


@dataclass(eq=False, repr=False)
class RoundedMoves:
    """Rounds gradient buffers, momentum, moves and parameters; all trials of one step by the same random bits.

    Args:
        net: whose plan says how.
    """

    net: PrecisionModule
    _key: int = 0
    _plan: PrecisionPlan | None = None
    _rows: dict[Tensor, UpdateRows] = field(default_factory=dict)  # of that plan
    _lost: dict[str, Tensor] = field(default_factory=dict)

    def begin(self, plan: PrecisionPlan, parameters: Sequence[Tensor]) -> None:
        """Draw the bits of a step, if a plan needs any."""
        rows = self._of(plan)
        self._key = draw_key() if any(rows[own].draws for own in parameters if own in rows) else 0

    def _of(self, plan: PrecisionPlan) -> Mapping[Tensor, UpdateRows]:
        if not plan.rounds_updates:
            return {}
        if plan is not self._plan:
            named = self.net.named_parameters()
            self._plan, self._rows = plan, {own: UpdateRows.of(plan, path, own) for path, own in named}
        return self._rows

    def gradients(self, gradients: Values, plan: PrecisionPlan) -> Values:
        """As gradient buffers hold them."""
        return self._each(gradients, {own: rows.gradient for own, rows in self._of(plan).items()})

    def momentum(self, direction: Values, plan: PrecisionPlan) -> Values:
        """As momentum holds it."""
        rows = self._of(plan)
        return self._each(direction, {own: row.of_state("momentum_buffer") for own, row in rows.items()})

    def _each(self, values: Values, rows: Mapping[Tensor, object]) -> Values:
        rounding = session_of(self.net).options.rounding
        found = {}
        for own, value in values.items():
            row = rows.get(own)
            found[own] = value if row is None else rounding(value, row, self._key)  # type: ignore[arg-type]
        return found

    @torch.no_grad()
    def move(self, step: Values, plan: PrecisionPlan) -> None:
        """Add a step to the parameters."""
        rows, rounding = self._of(plan), session_of(self.net).options.rounding
        self._lost = {}
        paths = {id(own): path for path, own in self.net.named_parameters()} if rows else {}
        for own, value in step.items():
            if own not in rows:
                own.add_(value)
                continue
            master, taken = rows[own].master, rows[own].step
            if master is not None:
                moved = value if taken is None else rounding(value, taken, self._key)
                self._lost[paths[id(own)]] = lost_to_nearest(own, moved, master)
            own.copy_(round_update(own, value, rows[own], self._key, rounding=rounding))

    def lost(self) -> dict[str, float]:
        """Share of each parameter's elements whose last step nearest rounding of the master weight loses, by path."""
        sizes = {path: own.numel() for path, own in self.net.named_parameters()}
        return {path: own.item() / max(sizes[path], 1) for path, own in self._lost.items()}
