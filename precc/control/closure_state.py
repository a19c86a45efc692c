"""The state of closure optimizers: what they remember, and checks of what they are to go on from."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor
from torch.optim import Optimizer

from precc.errors import PlanError
from precc.module import PrecisionModule, session_of
from precc.plan import PrecisionPlan
from precc.precision_state import load_state

__all__ = ["ClosureState", "checked_closure_state", "checked_region_state"]


class ClosureState(Optimizer):
    """An optimizer with a net, levels of arithmetic, and counts of what happened, in its copies and its state_dict."""

    net: PrecisionModule
    levels: tuple[PrecisionPlan, ...]
    loss_scale: float
    level: int
    steps: int
    events: Counter[str]

    _entry: ClassVar[str]  #: its key in the state_dict
    _attributes: ClassVar[tuple[str, ...]] = ("net", "levels", "loss_scale", "level", "steps", "events")

    @property
    def plan(self) -> PrecisionPlan:
        """The plan of the present level."""
        return self.levels[self.level]

    def _attach(self) -> None:
        """Tell the net what it does for it."""
        raise NotImplementedError

    def _parameters(self) -> list[Tensor]:
        return [parameter for group in self.param_groups for parameter in group["params"]]

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles take the net along."""
        return {**super().__getstate__(), **{name: getattr(self, name) for name in self._attributes}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "net" in state:  # torch calls it for a state_dict too
            self._attach()

    def _own_state(self) -> dict[str, Any]:
        return {
            "level": self.level,
            "steps": self.steps,
            "events": dict(self.events),
            "levels": [plan.to_json() for plan in self.levels],
            "net": self.net.precision_state(),
        }

    def state_dict(self) -> dict[str, Any]:
        """As torch's, with level, steps, events, plans of the levels, its own, and the net's precision state."""
        return {**super().state_dict(), self._entry: self._own_state()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue where a `state_dict` was taken.

        Raises:
            PlanError: it is of another optimizer, or of other levels; nothing is changed.
            ValueError: its parameter groups are not those of this optimizer; nothing is changed.
        """
        own = self._checked_state(state_dict.get(self._entry))
        before = self.net.precision_state()
        self.net.load_precision_state(own["net"])
        try:
            super().load_state_dict({key: value for key, value in state_dict.items() if key != self._entry})
        except BaseException:
            load_state(session_of(self.net), self.net, before, exact=True)
            raise
        self._keep_dtypes(state_dict)
        self._load(own)
        self.net.set_plan(self.plan)

    def _checked_state(self, own: Any) -> Mapping[str, Any]:
        """An entry that can be loaded."""
        return checked_closure_state(own, list(self._own_state()), self.levels, type(self).__name__, self._entry)

    def _load(self, own: Mapping[str, Any]) -> None:
        self.level, self.steps, self.events = own["level"], own["steps"], Counter(own["events"])

    def _keep_dtypes(self, state_dict: Mapping[str, Any]) -> None:
        """Torch loads what belongs to a parameter in its dtype; momentum of a float16 net is float32."""
        numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
        for number, parameter in zip(numbers, self._parameters(), strict=True):
            for name, value in state_dict["state"].get(number, {}).items():
                self.state[parameter][name] = value.detach().to(parameter.device, copy=True)


def checked_closure_state(
    own: Any, entries: Sequence[str], levels: Sequence[PrecisionPlan], name: str, entry: str
) -> Mapping[str, Any]:
    """An entry of a state_dict that can be loaded.

    Args:
        own: it.
        entries: that it must have, and no others.
        levels: plans of the optimizer.
        name: of its class.
        entry: key of the entry.

    Raises:
        PlanError: it is of another optimizer, of other levels, or damaged.
    """
    if not isinstance(own, Mapping) or set(own) != set(entries):
        raise PlanError(f"the state_dict is not one of {name}: it has no whole {entry!r} entry")
    if [PrecisionPlan.from_json(text) for text in own["levels"]] != list(levels):
        raise PlanError(f"the state_dict is of a {name} with other levels: pass the same levels first")
    counts = own["events"].values() if isinstance(own["events"], Mapping) else [None]
    whole = all(type(count) is int and count >= 0 for count in (own["level"], own["steps"], *counts))
    if not whole or own["level"] >= max(1, len(levels)):
        shown = {key: own[key] for key in ("level", "steps", "events")}
        raise PlanError(f"the state_dict has a level, steps or events that cannot be: {shown}")
    return own


def checked_region_state(own: Mapping[str, Any], *, by_budget: bool) -> Mapping[str, Any]:
    """An entry of a trust region, with its plan.

    Raises:
        PlanError: its budget, or number of successes, cannot be.
    """
    budget = own["budget"]
    if budget is not None and not (by_budget and isinstance(budget, float) and 0 < budget < math.inf):
        raise PlanError(f"the state_dict has a budget that cannot be: {budget!r}")
    if type(own["successes"]) is not int or own["successes"] < 0:
        raise PlanError(f"the state_dict has a number of successes that cannot be: {own['successes']!r}")
    return {**own, "plan": None if own["plan"] is None else PrecisionPlan.from_json(own["plan"])}
