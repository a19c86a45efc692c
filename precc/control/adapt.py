"""AdaPT: training in fixed point whose word and fraction lengths adapt, weight tensor by weight tensor."""

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from precc.control.adapt_rule import AdaPTRule, Strategy
from precc.control.adapt_state import AdaPTMemory, strategy_named
from precc.control.controller import Controller
from precc.control.fixed_point_cost import FixedPointCost, TensorCost
from precc.control.gradient_diversity import GradientSum
from precc.control.histogram_divergence import histogram_divergence
from precc.control.weight_slots import WeightSlots, weights_in
from precc.errors import ControllerError
from precc.module import PrecisionModule
from precc.plan import PrecisionPlan
from precc.precision import Precision
from precc.rounding import quantize

__all__ = ["AdaPT"]

_ROUNDING = "stochastic"


class AdaPT(Controller):
    """Fixed point as short as the weights' distributions and the gradients' effect allow; see `AdaPTRule`.

    In each product with a weight, weight and input are rounded stochastically to the weight's ``fixed<WL>.<FL>``, the
    gradient of the output to ``dfp<WL>``: as many bits, with one power of two for the tensor. The source rounds the
    weight's gradient at (WL, FL) and then divides it by its norm, and below ``2**-FL`` most of it is lost by then; here
    the optimizer's own gradient is used as it is. Biases have no slot. The first step, which finds the
    layers, is in the net's own plan; what AdaPT does not control stays in it.

    ``net.history`` has a row for the start and for each decision, with both lengths; its plans have those of all layers
    at that time. A plan that somebody else sets holds until lengths, or products of the net, are others.

    >>> import torch, precc
    >>> net = precc.compile(torch.nn.Linear(4, 3), backend="reference")
    >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    >>> ctl = AdaPT(net, optimizer)
    >>> loss = net(torch.randn(8, 4)).square().mean()
    >>> loss.backward()
    >>> optimizer.step()
    >>> ctl.step(loss)
    >>> ctl.lengths, ctl.cost.speedup
    ({'weight': (8, 4)}, 4.0)

    Args:
        net: made by `precc.compile`.
        optimizer: any, of the net's parameters.
        strategy: the first one of PushUp: ``"min"``, ``"mean"`` or ``"max"``. It moves with the loss that ``ctl.step``
            is given, and stays without, or where that is not finite.
        rule: its constants.

    Raises:
        CaptureError, ControllerError: what does not fit.
    """

    def __init__(
        self,
        net: PrecisionModule,
        optimizer: Optimizer,
        strategy: str = "min",
        *,
        rule: AdaPTRule | None = None,
    ) -> None:
        self.rule = AdaPTRule() if rule is None else rule
        self._memory = AdaPTMemory(strategy_named(strategy))
        super().__init__(net, optimizer)
        self._slots: dict[str, WeightSlots] = {}
        self._seen = -1  # graphs of the net when its slots were found
        self._in_force: tuple[Any, ...] = ()  # what the plan that was set last was made from
        self._resumed = False  # whether the plan of what was loaded is in force

    @property
    def strategy(self) -> Strategy:
        """The one in force."""
        return self._memory.strategy

    @property
    def lengths(self) -> dict[str, tuple[int, int]]:
        """Word and fraction length in force, by name of the weight; none before the first step."""
        return {name: (own.word, own.fraction) for name, own in self._memory.tensors.items()}

    @property
    def cost(self) -> FixedPointCost:
        """Of the lengths in force."""
        return FixedPointCost.of(
            TensorCost(
                own.multiply_adds, self.parameters[name].numel(), state.word, self._memory.density.get(name, 1.0)
            )
            for name, own in self._slots.items()
            if (state := self._memory.tensors.get(name)) is not None
        )

    @property
    def speedup(self) -> float:
        """Of the training so far, by the same model: ``2 / (1 + mean cost of the forward)``."""
        total, steps = self._memory.charged
        return 2.0 / (1.0 + total / steps) if steps else 1.0

    # what it sees of a step

    def _before_update(self) -> None:
        if self.net.compilations != self._seen:
            self._find_slots()
        gradients = self.gradients()
        for name in self._slots:
            own = gradients.get(name)
            if own is None:
                continue
            seen = self._memory.sums[name]
            if not seen.add(own):
                self.note("nonfinite", f"the gradient of {name} is not finite, and no part of its diversity")
            elif seen.count:  # zeros alone have no diversity
                self._memory.tensors[name] = self.rule.observe(seen.diversity, self._memory.tensors[name])

    def _find_slots(self) -> None:
        """Look for weights, in all graphs so far."""
        plan = self.net.plan
        self._slots, others = weights_in(self.net, plan, self.parameters)
        if not self._slots:
            raise ControllerError(
                f"AdaPT sets the format of weights, and the net has no product with a trained <module>.weight "
                f"(it has {', '.join(others) or 'none'})"
            )
        self._seen = self.net.compilations
        if self._memory.base is None:
            self._memory.base = plan
        if others != self._memory.others:
            self._memory.others = others
            self.note("uncontrolled", f"not of a trained <module>.weight, so left as they are: {', '.join(others)}")
        if self._resumed and self._slots.keys() <= self._memory.tensors.keys():
            self._in_force = self._made_from()
        self._resumed = False
        for name in self._slots:
            self._memory.tensors.setdefault(name, self.rule.init())
            self._memory.sums.setdefault(name, GradientSum())

    # what it decides

    def _decide(self, loss: float | None) -> None:
        if loss is not None and math.isfinite(loss):  # it moves every few steps, so the table has it where it counted
            self._move_strategy(loss)
        due = [name for name in self._slots if self._memory.sums[name].count >= self._memory.tensors[name].lookback]
        reasons = [reason for reason in map(self._adapt, due) if reason]
        self._put_in_force(loss)
        for reason in reasons:
            self.note("format", reason, loss=loss)
        total, steps = self._memory.charged
        self._memory.charged = total + self.cost.forward, steps + 1

    def _move_strategy(self, loss: float) -> None:
        lookback = sum(own.lookback for own in self._memory.tensors.values()) // max(len(self._memory.tensors), 1)
        self._memory.strategy = self.rule.strategy_after(loss, self._memory.losses, self._memory.strategy, lookback)
        self._memory.losses = (*self._memory.losses, loss)[-self.rule.lookback[1] :]

    def _adapt(self, name: str) -> str:
        """Decide the lengths of a weight: the reason, empty if they stay as they were."""
        weight = self.parameters[name].detach()
        diversity, before = self._memory.sums[name].diversity, self._memory.tensors[name]
        self._memory.sums[name] = GradientSum()
        if not bool(weight.isfinite().all()):
            self.note("nonfinite", f"{name} is not finite, and its format stays")
            return ""
        widened = weight.to(torch.promote_types(weight.dtype, torch.float32))

        def loses(word: int, fraction: int) -> float:
            return histogram_divergence(widened, _rounded(widened, word, fraction), before.resolution)

        own = self.rule.decide(loses, diversity, self._memory.strategy, before)
        self._memory.tensors[name] = own
        kept = _rounded(widened, own.word, own.fraction)
        self._memory.density[name] = int(kept.count_nonzero()) / max(kept.numel(), 1)
        if (own.word, own.fraction) == (before.word, before.fraction):
            return ""
        return (
            f"{name}: fixed{before.word}.{before.fraction} to fixed{own.word}.{own.fraction}, "
            f"diversity {diversity:.3g}, strategy {self._memory.strategy.value}"
        )

    def _put_in_force(self, loss: float | None) -> None:
        """Set the plan where its lengths or slots changed, and not because another one was set since."""
        made_from = self._made_from()
        if self._memory.base is None or made_from == self._in_force:
            return
        plan = self._plan(self._memory.base)
        if plan != self.net.plan:
            self.set_plan(plan)
        self._in_force = made_from
        if not self._memory.charged[1]:
            first = f"fixed{self.rule.word}.{self.rule.fraction} for {', '.join(self.lengths)}"
            self.note("start", f"{first}, in the place of the net's own plan", loss=loss)

    def _made_from(self) -> tuple[Any, ...]:
        """What a plan of its own depends on: lengths, and the slots that have them."""
        slots = frozenset(slot for own in self._slots.values() for slot in (*own.values, *own.gradients))
        return self.lengths, slots

    def _plan(self, base: PrecisionPlan) -> PrecisionPlan:
        """The net's own plan, with the formats of the weights."""
        present = self.net.plan
        slots = {**present.slots, **base.slots}
        for name, own in self._slots.items():
            state = self._memory.tensors[name]
            value = Precision(f"fixed{state.word}.{state.fraction}", _ROUNDING)
            gradient = Precision(f"dfp{state.word}", _ROUNDING)
            slots |= dict.fromkeys(own.values, value) | dict.fromkeys(own.gradients, gradient)
        provenance = replace(base.provenance, predicted_error=None, cost=None)
        return replace(base, slots=slots, multiply_adds=present.multiply_adds, provenance=provenance)

    # what it remembers

    def _state(self) -> dict[str, Any]:
        return self._memory.to_state()

    def _load(self, state: dict[str, Any]) -> None:
        self._memory = AdaPTMemory.from_state(state, self.parameters, self.rule.longest)
        self._seen, self._in_force, self._resumed = -1, (), self._memory.charged[1] > 0


def _rounded(values: Tensor, word: int, fraction: int) -> Tensor:
    """To nearest, whose distribution is that of the format's values and draws nothing."""
    return quantize(values, Precision(f"fixed{word}.{fraction}").row())
