"""What AdaPT remembers, and its reading from a checkpoint."""

import math
from collections.abc import Mapping
from dataclasses import astuple, dataclass, field, fields
from typing import Any

from torch import Tensor

from precc.checks import checked_count
from precc.control.adapt_rule import Strategy, TensorState
from precc.control.gradient_diversity import GradientSum
from precc.control.stored_plan import stored_plan
from precc.errors import ControllerError, expected_one_of
from precc.plan import PrecisionPlan

__all__ = ["AdaPTMemory", "strategy_named"]


@dataclass(slots=True)
class AdaPTMemory:
    """Between steps; the controller changes it.

    Args:
        strategy: of PushUp.
        tensors: the rule's states, by name of the weight.
        sums: gradients since the last decisions.
        density: share of each weight that is not zero in its format.
        losses: the last ones.
        charged: sum of the forward's relative cost, and of how many steps.
        base: the net's own plan; None before the first step.
        others: products that are not controlled.
    """

    strategy: Strategy
    tensors: dict[str, TensorState] = field(default_factory=dict)
    sums: dict[str, GradientSum] = field(default_factory=dict)
    density: dict[str, float] = field(default_factory=dict)
    losses: tuple[float, ...] = ()
    charged: tuple[float, int] = (0.0, 0)
    base: PrecisionPlan | None = None
    others: tuple[str, ...] = ()

    def to_state(self) -> dict[str, Any]:
        """As plain data and tensors, for checkpoints."""
        return {
            "tensors": {name: list(astuple(own)) for name, own in self.tensors.items()},
            "sums": {name: (own.total, own.count) for name, own in self.sums.items()},
            "density": dict(self.density),
            "strategy": self.strategy.value,
            "losses": list(self.losses),
            "charged": list(self.charged),
            "others": list(self.others),
            "base": None if self.base is None else self.base.to_json(),
        }

    @classmethod
    def from_state(cls, state: Any, parameters: Mapping[str, Tensor], longest: int) -> "AdaPTMemory":
        """What `to_state` gave, for a net of these parameters.

        Raises:
            ControllerError: it is no such state, or of other weights.
        """
        names = [own.name for own in fields(cls)]
        if not isinstance(state, Mapping) or set(state) != set(names):
            raise ControllerError(f"not a state of AdaPT, which has {', '.join(names)}: {state!r:.60}")
        weights = {name: _of_weights(name, state[name], parameters) for name in ("tensors", "sums", "density")}
        return cls(
            strategy=strategy_named(state["strategy"]),
            tensors={name: _tensor_state(name, own, longest) for name, own in weights["tensors"].items()},
            sums={name: _sum(name, own, parameters[name]) for name, own in weights["sums"].items()},
            density={name: _number(f"density of {name}", own) for name, own in weights["density"].items()},
            losses=tuple(_number("losses", own, finite=False) for own in _listed("losses", state["losses"])),
            charged=_charged(_listed("charged", state["charged"])),
            base=stored_plan(state["base"], "AdaPT"),
            others=_texts(_listed("others", state["others"])),
        )


def strategy_named(name: Any) -> Strategy:
    """The strategy of a name.

    Raises:
        ControllerError: there is none.
    """
    if name not in [own.value for own in Strategy]:
        raise ControllerError(f"unknown strategy {name!r}: {expected_one_of(own.value for own in Strategy)}")
    return Strategy(name)


def _of_weights(what: str, own: Any, parameters: Mapping[str, Tensor]) -> Mapping[str, Any]:
    if not isinstance(own, Mapping):
        raise ControllerError(f"a state of AdaPT has {what} by name of the weight, not {own!r:.60}")
    strange = next((name for name in own if name not in parameters), None)
    if strange is not None:
        raise ControllerError(f"the state has a weight {strange!r}, which the net does not train")
    return own


def _listed(what: str, own: Any) -> list[Any]:
    if not isinstance(own, list):
        raise ControllerError(f"a state of AdaPT has a list of {what}, not {own!r:.60}")
    return own


def _tensor_state(name: str, own: Any, longest: int) -> TensorState:
    if len(_listed(f"lengths of {name}", own)) != len(fields(TensorState)):
        raise ControllerError(f"{name} has word, fraction, lookback and resolution, not {own!r:.60}")
    word, fraction, lookback, resolution = own
    if max(checked_count(f"word of {name}", word, 1), checked_count(f"fraction of {name}", fraction, 0)) > longest:
        raise ControllerError(f"{name} has {own[:2]} bits, and the longest here is {longest}")
    checked_count(f"lookback of {name}", lookback, 1)
    return TensorState(word, fraction, lookback, checked_count(f"resolution of {name}", resolution, 1))


def _sum(name: str, own: Any, parameter: Tensor) -> GradientSum:
    if not isinstance(own, (list, tuple)) or len(own) != 2:
        raise ControllerError(f"the gradients of {name} are a sum and a count, not {own!r:.60}")
    total, count = own
    if checked_count(f"gradients of {name}", count, 0) == 0 and total is None:
        return GradientSum()
    if not count or not isinstance(total, Tensor) or total.shape != parameter.shape:
        raise ControllerError(f"the sum of {count} gradients of {name} is no tensor of shape {list(parameter.shape)}")
    return GradientSum(total.to(parameter.device, copy=True), count)


def _number(what: str, own: Any, *, finite: bool = True) -> float:
    if type(own) not in (int, float) or (finite and not 0.0 <= own < math.inf):
        raise ControllerError(f"{what} in a state of AdaPT: {own!r:.60}")
    return float(own)


def _charged(own: list[Any]) -> tuple[float, int]:
    if len(own) != 2:
        raise ControllerError(f"charged are a cost and steps, not {own!r:.60}")
    return _number("cost charged", own[0]), checked_count("steps charged", own[1], 0)


def _texts(own: list[Any]) -> tuple[str, ...]:
    if not all(isinstance(name, str) for name in own):
        raise ControllerError(f"others are names of products, not {own!r:.60}")
    return tuple(own)
