"""When to analyse, and what of a proposed plan to take: the rule of `precc.NoiseAware`."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from precc.control.plan_change import agreement, changed_share, finer, towards
from precc.errors import ControllerError
from precc.plan import PrecisionPlan

__all__ = ["NoiseAwareRule", "NoiseAwareState", "NoiseDecision", "Proposal"]


#: Fields of the state that are plans.
_PLANS = ("previous", "plan", "fallback")


class NoiseDecision(Enum):
    """What to do with a proposed plan."""

    WAIT = "wait"  #: no two analyses agree so far
    KEEP = "keep"  #: the plan in force is the one wanted
    SWITCH = "switch"  #: try another, and take it if its loss is as predicted


@dataclass(frozen=True, slots=True)
class Proposal:
    """What an analysis proposes.

    Args:
        step: of the training.
        plan: the cheapest one that hides in the noise, with the work of its slots.
    """

    step: int
    plan: PrecisionPlan


@dataclass(frozen=True, slots=True)
class NoiseAwareState:
    """What the rule remembers.

    Args:
        origin: step that the start-up counts from.
        due: step of the next analysis.
        previous: the proposal of the analysis before; None after a roll-back.
        plan: in force; None: full precision, since the start or a roll-back.
        fallback: the plan before the last switch.
        switched: step of the last switch; None: none since the start or a roll-back.
    """

    origin: int
    due: int
    previous: PrecisionPlan | None = None
    plan: PrecisionPlan | None = None
    fallback: PrecisionPlan | None = None
    switched: int | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain data, for checkpoints."""
        own = {name: getattr(self, name) for name in _PLANS}
        plans = {name: None if plan is None else plan.to_json() for name, plan in own.items()}
        return {"origin": self.origin, "due": self.due, "switched": self.switched, **plans}

    @classmethod
    def from_json(cls, data: Any) -> "NoiseAwareState":
        """What `to_json` gave.

        Raises:
            ControllerError, PlanError: it is no such state.
        """
        if not isinstance(data, Mapping) or set(data) != {"origin", "due", "switched", *_PLANS}:
            raise ControllerError(f"not a state of NoiseAware's rule: {data!r:.80}")
        steps = {name: data[name] for name in ("origin", "due", "switched")}
        if not all(type(own) is int or (own is None and name == "switched") for name, own in steps.items()):
            raise ControllerError(f"the state of NoiseAware's rule has steps that are none: {steps}")
        own = {name: data[name] for name in _PLANS}
        plans = {name: None if text is None else PrecisionPlan.from_json(text) for name, text in own.items()}
        return cls(data["origin"], data["due"], switched=data["switched"], **plans)


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseAwareRule:
    """The constants of the rule.

    Each product wants the finer of what the last two analyses propose for it: it is refined at once, and becomes
    coarser once two agree. The first plan is taken whole, when two analyses in a row differ by no more than `agree`, or
    the start-up ends. Later switches make no more than `change` of the multiply-adds coarser.

    Args:
        start: steps of the first analyses, after the start or a roll-back.
        every: steps from one analysis to the next, afterwards.
        change: share of the multiply-adds that may become coarser in a switch.
        agree: largest difference of two proposals, in bits of an operand averaged over multiply-adds.
        suspect: steps after a switch in which it is blamed for what goes wrong.
        hold: steps without an analysis after a roll-back.

    Raises:
        ControllerError: a number outside its range.

    >>> rule = NoiseAwareRule()
    >>> rule.init().due, rule.due_after(20, 0), rule.due_after(320, 0)
    (10, 80, 1320)
    """

    start: tuple[int, ...] = (10, 20, 80, 320)
    every: int = 1000
    change: float = 0.25
    agree: float = 1.0
    suspect: int = 100
    hold: int = 200

    def __post_init__(self) -> None:
        if not isinstance(self.start, tuple):
            raise ControllerError(f"start is a tuple of steps, such as (10, 20), not {self.start!r:.60}")
        steps = (0, *self.start)
        if not self.start or not all(type(own) is int for own in steps) or sorted(set(steps)) != list(steps):
            raise ControllerError(f"start is steps of analyses, whole numbers above 0 that ascend, not {self.start!r}")
        for name, least in (("every", 1), ("suspect", 0), ("hold", 0)):
            if type(getattr(self, name)) is not int or getattr(self, name) < least:
                raise ControllerError(f"{name} counts steps, at least {least}, not {getattr(self, name)!r}")
        if not 0 < self.change <= 1:
            raise ControllerError(f"change is a share of the multiply-adds, above 0 and at most 1, not {self.change!r}")
        if not self.agree >= 0:
            raise ControllerError(f"agree is a number of bits, 0 or more, not {self.agree!r}")

    def init(self) -> NoiseAwareState:
        return NoiseAwareState(0, self.start[0])

    def due_after(self, step: int, origin: int) -> int:
        """The step of the analysis that follows one at a step."""
        later = [origin + own for own in self.start if origin + own > step]
        return later[0] if later else step + self.every

    def step(
        self, seen: Proposal, state: NoiseAwareState
    ) -> tuple[tuple[NoiseDecision, PrecisionPlan | None], NoiseAwareState]:
        """The decision on a proposal with the plan to try, and the state after it; `commit` follows a switch."""
        after = replace(state, due=self.due_after(seen.step, state.origin), previous=seen.plan)
        if state.previous is None:
            return (NoiseDecision.WAIT, None), after
        wanted = finer(state.previous, seen.plan)
        if state.plan is None:
            starting = seen.step < state.origin + self.start[-1]
            if starting and agreement(state.previous, seen.plan) > self.agree:
                return (NoiseDecision.WAIT, None), after
            return (NoiseDecision.SWITCH, wanted), after
        wanted = towards(state.plan, wanted, self.change)
        if not changed_share(state.plan, wanted):
            return (NoiseDecision.KEEP, None), after
        return (NoiseDecision.SWITCH, wanted), after

    def commit(self, plan: PrecisionPlan, step: int, state: NoiseAwareState) -> NoiseAwareState:
        """The state once a plan is in force."""
        return replace(state, plan=plan, fallback=state.plan, switched=step)

    def roll_back(self, step: int, state: NoiseAwareState) -> NoiseAwareState:
        """The state after the training went wrong at a step; its `plan` is the one to go on with.

        Soon after a switch that is the plan before it, and otherwise full precision. A new start-up begins after the
        hold, and takes what it finds whole again only from full precision.
        """
        recent = state.switched is not None and step - state.switched <= self.suspect
        plan = state.fallback if recent else None
        origin = step + self.hold
        return NoiseAwareState(origin, origin + self.start[0], plan=plan)
