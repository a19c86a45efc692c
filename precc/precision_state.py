"""What a net knows beside its parameters, as plain data: written, checked, read back."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from precc.analysis.calibration import Calibration
from precc.errors import PlanError
from precc.formats import MAX_HISTORY
from precc.history import History
from precc.plan import PrecisionPlan
from precc.rule import Rule
from precc.rule_json import rules_from_json, rules_to_json
from precc.session import Session
from precc.slots import ACCUMULATOR, Slot

__all__ = ["load_state", "state_of"]


def state_of(session: Session) -> dict[str, Any]:
    """All of it; the plan is None if none was set, the bits are those of the multiply-adds."""
    return {
        "plan": None if session.chosen is None else session.chosen.resolve(session.graphs.multiply_adds).to_json(),
        "rules": rules_to_json(session.rules),
        "multiply_adds": dict(session.builds.tally.by_format),
        "bits": [session.builds.tally.bits, session.builds.tally.weighed],
        "events": dict(session.events),
        "history": session.history.to_json(),
        "amax": session.amax.to_lists(),
        "calibration": session.calibration.to_json(),
    }


def load_state(session: Session, net: nn.Module, state: Any, *, exact: bool = False) -> None:
    """Put a state of `state_of` in the place of the net's own. The net's rules stay, before those of the state.

    Args:
        session: of the net.
        net: that it is for.
        state: of it, or of one like it.
        exact: take its rules alone, as where a state of before is put back.

    Raises:
        PlanError: it is none, or names slots that the net does not have; the net's own stays.
    """
    read = _State.of(state)
    brought = () if read.plan is None else read.plan.multiply_adds
    session.graphs.check_names(list(read.amax), brought, net, namer="the precision_state")
    brought_rules = tuple(rule for rule in read.rules if rule not in session.rules)
    rules = read.rules if exact else (*session.rules, *brought_rules)
    session.use(read.plan, net, rules=rules, recompile=exact)
    session.builds.tally.replace_by(read.multiply_adds, *read.bits)
    session.events.clear()
    session.events.update(read.events)
    session.history.load(read.history)
    session.amax.load(read.amax)
    session.calibration.load(read.calibration)


#: Entries that states of earlier versions lack.
_LATER = ("rules", "calibration", "bits", "history")


@dataclass(frozen=True, slots=True)
class _State:
    plan: PrecisionPlan | None
    rules: tuple[Rule, ...]
    multiply_adds: dict[str, int]
    bits: tuple[float, int]
    events: dict[str, int]
    history: History
    amax: dict[str, list[float]]
    calibration: Calibration

    @classmethod
    def of(cls, state: Any) -> "_State":
        entries = tuple(cls.__slots__)
        if not isinstance(state, Mapping) or {*state, *_LATER} != set(entries):
            raise PlanError(
                f"not a precision_state, whose entries are {', '.join(entries)}: {_unlike(state, entries)}; "
                "net.precision_state() makes one"
            )
        plan = state["plan"]
        if plan is not None and not isinstance(plan, str):
            raise PlanError(f"the precision_state has a plan that is no JSON text but {plan!r}")
        counts = {name: _entries(state, name, _is_count, "counts") for name in ("multiply_adds", "events")}
        amax = _entries(state, "amax", _is_record, f"lists of 1 to {MAX_HISTORY} numbers above 0")
        for slot in amax:
            if (own := Slot.parse(slot)).operand == ACCUMULATOR or own.is_update:
                raise PlanError(f"the precision_state has an amax history of {slot!r}: sums and updates have none")
        return cls(
            None if plan is None else PrecisionPlan.from_json(plan),
            rules_from_json(state.get("rules", [])),
            bits=_bits(state.get("bits", [0.0, 0])),
            history=History.from_json(state.get("history", {"rows": [], "plans": {}})),
            calibration=Calibration.from_json(state.get("calibration", {})),
            amax={slot: [float(value) for value in own] for slot, own in amax.items()},
            **counts,
        )


def _unlike(state: Any, entries: Sequence[str]) -> str:
    """What is wrong with the entries of a state."""
    if not isinstance(state, Mapping):
        return f"it is {state!r:.80}"
    missing = [name for name in entries if name not in {*state, *_LATER}]
    strange = [repr(name) for name in state if name not in entries]
    wrongs = [f"{what} {', '.join(names)}" for what, names in (("it lacks", missing), ("it has", strange[:3])) if names]
    return " and ".join(wrongs)


def _entries(state: Mapping[str, Any], name: str, fits: Callable[[Any], bool], kind: str) -> dict[str, Any]:
    own = state[name]
    if not isinstance(own, Mapping):
        raise PlanError(f"the precision_state has {name!r} {own!r}: expected names with {kind}")
    for key, value in own.items():
        if not isinstance(key, str) or not fits(value):
            raise PlanError(f"the precision_state has in {name!r} {key!r}: {value!r}; expected names with {kind}")
    return dict(own)


def _bits(value: Any) -> tuple[float, int]:
    if not isinstance(value, Sequence) or len(value) != 2 or type(value[0]) is not float or not _is_count(value[1]):
        raise PlanError(f"the precision_state has 'bits' {value!r:.60}: expected their sum and how many were weighed")
    return value[0], value[1]


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_record(value: Any) -> bool:
    return isinstance(value, list) and 0 < len(value) <= MAX_HISTORY and all(map(_is_amax, value))


def _is_amax(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value <= sys.float_info.max
