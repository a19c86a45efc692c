"""ALRS: the learning rate of quantisation scales, around any optimizer."""

from collections.abc import Mapping, Sequence
from typing import Any
from weakref import ReferenceType, ref

import torch
from torch import Tensor
from torch.optim import Optimizer

from precc.checks import checked_count
from precc.control.alrs_rule import ALRSRule
from precc.errors import ControllerError
from precc.unscaled import refuse_scaled

__all__ = ["ALRS"]


class ALRS:
    """Sets the learning rate of groups that hold quantisation scales, for each step, by `ALRSRule`.

    It acts by itself in ``optimizer.step()``: the group's ``lr``, which schedulers may move, is that of the rule while
    the step is made, and what it was afterwards. The parameters of the groups are one layer's scales each; those
    without a gradient do not count. Say the width before each step, and make one for each:

        for alrs.bits in (8, 6, 4):
            optimizer.zero_grad(); loss(net(x, bits=alrs.bits), y).backward(); optimizer.step()

    >>> import torch
    >>> scale = torch.nn.Parameter(torch.ones(1))
    >>> optimizer = torch.optim.SGD([scale], lr=1.0)
    >>> alrs = ALRS(optimizer, highest_bits=8, bits=7)
    >>> (0.5 * scale).sum().backward()
    >>> optimizer.step()
    >>> alrs.rates, scale.item()  # 0.5 * (1 - 0.5), and 1 - 0.25 * 0.5
    ({0: 0.25}, 0.875)

    Args:
        optimizer: any; weights are usually another one's, or in other groups.
        highest_bits: of the widest width that is trained.
        bits: of the first step.
        groups: positions of its groups that hold scales; default: all.

    Raises:
        ControllerError: what does not fit.
        UnsupportedError: at a step whose gradients still have the scale of a GradScaler.
    """

    def __init__(
        self, optimizer: Optimizer, highest_bits: int, bits: int, *, groups: Sequence[int] | None = None
    ) -> None:
        if not isinstance(optimizer, Optimizer):
            raise ControllerError(f"ALRS goes around an optimizer of torch.optim, not {type(optimizer).__name__}")
        self.rule = ALRSRule(highest_bits)
        self.optimizer = optimizer
        self.groups = _checked_groups(groups, len(optimizer.param_groups))
        self.bits = bits
        #: Learning rates of the last step, by group.
        self.rates: dict[int, float] = {}
        self._held: dict[int, Any] = {}  # the groups' own, while a step is made
        own = ref(self)
        self._hooks = [
            optimizer.register_step_pre_hook(lambda *_: _call(own, "_set")),
            optimizer.register_step_post_hook(lambda *_: _call(own, "_put_back")),
        ]

    @property
    def bits(self) -> int:
        """Of the width that the gradients of the next step are of."""
        return self._bits

    @bits.setter
    def bits(self, bits: int) -> None:
        self.rule.eta(bits)  # or it says what is wrong
        self._bits = bits

    def close(self) -> None:
        """Let go of the optimizer."""
        self._put_back()
        for hook in self._hooks:
            hook.remove()

    def _set(self) -> None:
        self._put_back()  # of a step that was not ended
        refuse_scaled(self.optimizer, type(self).__name__)
        for position in self.groups:
            group = self.optimizer.param_groups[position]
            own = group["lr"]
            rate = self.rule.rate(float(own), self.bits, _magnitudes(group))
            self._held[position], self.rates[position] = own, rate
            group["lr"] = torch.full_like(own, rate) if isinstance(own, Tensor) else rate

    def _put_back(self) -> None:
        for position, own in self._held.items():
            self.optimizer.param_groups[position]["lr"] = own
        self._held = {}

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training needs beside the optimizer's."""
        return {"highest_bits": self.rule.highest_bits, "bits": self.bits}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on where a `state_dict` was taken.

        Raises:
            ControllerError: it is none, or of another widest width; nothing is changed.
        """
        if not isinstance(state_dict, Mapping) or set(state_dict) != {"highest_bits", "bits"}:
            raise ControllerError(f"the state of ALRS has highest_bits and bits, unlike {state_dict!r:.60}")
        if state_dict["highest_bits"] != self.rule.highest_bits:
            raise ControllerError(
                f"the state is of widths up to {state_dict['highest_bits']!r} bits, and this is up to "
                f"{self.rule.highest_bits}"
            )
        self.bits = state_dict["bits"]


def _magnitudes(group: Mapping[str, Any]) -> list[float]:
    """The largest gradient of each parameter that has one; one device transfer each."""
    grads = (own.grad for own in group["params"] if own.grad is not None)
    return [float(grad.detach().abs().max()) for grad in grads if grad.numel()]


def _checked_groups(groups: Any, count: int) -> tuple[int, ...]:
    if groups is None:
        return tuple(range(count))
    if isinstance(groups, (str, int)) or not groups:
        raise ControllerError(f"groups are positions of the optimizer's groups, such as [1], not {groups!r}")
    for own in groups:
        if checked_count("the position of a group", own, 0) >= count:
            raise ControllerError(f"the optimizer has {count} groups, and none at position {own}")
    if len(set(groups)) != len(groups):
        raise ControllerError(f"groups has a position twice: {groups!r}")
    return tuple(groups)


def _call(own: "ReferenceType[ALRS]", method: str) -> None:
    alrs = own()  # an optimizer outlives what is gone
    if alrs is not None:
        getattr(alrs, method)()
