"""Preconditioners of optimizers, and squares of vectors of all parameters in their metric."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from precc.errors import ControllerError, expected_one_of

__all__ = ["difference", "preconditioner", "square", "square_of_gradients"]

Vector = Mapping[str, Tensor]
_State = Mapping[str, Any]


def _adam(state: _State, group: _State) -> Tensor:
    second: Tensor = state.get("max_exp_avg_sq", state["exp_avg_sq"])  # the former in AMSGrad
    unbiased = second / (1 - group["betas"][1] ** float(state["step"]))
    found: Tensor = 1.0 / (unbiased.sqrt() + group["eps"])
    return found


def _rmsprop(state: _State, group: _State) -> Tensor:
    second: Tensor = state["square_avg"]
    if "grad_avg" in state:  # centered
        second = (second - state["grad_avg"].square()).clamp(min=0.0)
    found: Tensor = 1.0 / (second.sqrt() + group["eps"])
    return found


def _adagrad(state: _State, group: _State) -> Tensor:
    decayed = 1.0 + (float(state["step"]) - 1.0) * group.get("lr_decay", 0.0)
    total: Tensor = state["sum"]
    found: Tensor = 1.0 / ((total.sqrt() + group["eps"]) * decayed)
    return found


def _adamax(state: _State, _group: _State) -> Tensor:
    largest: Tensor = state["exp_inf"]  # eps is in it
    return 1.0 / largest


#: P by the entry of an optimizer's state that it is made of, and the options of the group that this takes.
_KINDS: dict[str, tuple[Callable[[_State, _State], Tensor], tuple[str, ...]]] = {
    "exp_avg_sq": (_adam, ("betas", "eps")),
    "square_avg": (_rmsprop, ("eps",)),
    "sum": (_adagrad, ("eps",)),
    "exp_inf": (_adamax, ()),
}
#: Counts, momenta and averages, which are no part of P.
_BESIDE = {"step", "momentum_buffer", "exp_avg", "grad_avg", "max_exp_avg_sq", "mu_product", "ax", "eta", "mu"}


def preconditioner(parameters: Vector, optimizer: Optimizer) -> dict[str, Tensor]:
    """P, by name of the parameter; none of parameters with P = 1, or that made no step so far.

    ``1 / (sqrt(v) + eps)`` in optimizers of Adam's kind, v being ``exp_avg_sq`` without bias (in AMSGrad its maximum),
    in RMSprop of ``square_avg`` (if centered, less ``grad_avg**2``), in Adagrad of ``sum`` with its decay of the rate;
    ``1 / exp_inf`` in Adamax; 1 in SGD. Biases of momenta are no part of it.

    Raises:
        ControllerError: the optimizer's state, or its options, say that it has another P.
    """
    groups = _groups_of(optimizer)
    found = {}
    for name, own in parameters.items():
        state = optimizer.state.get(own)
        if not state or float(state.get("step", 1)) == 0:
            continue
        kind = _kind(name, own, state, groups[own], optimizer)
        if kind is not None:
            found[name] = kind(state, groups[own])
    return found


def _groups_of(optimizer: Optimizer) -> dict[Tensor, dict[str, Any]]:
    return {own: group for group in optimizer.param_groups for own in group["params"]}


def _preconditions(group: _State) -> bool:
    """Whether the options of a group are those of an optimizer with P."""
    return "eps" in group or "betas" in group


def _kind(
    name: str, parameter: Tensor, state: _State, group: _State, optimizer: Optimizer
) -> Callable[[_State, _State], Tensor] | None:
    """How P is made; None: it is 1."""
    strange = [key for key, own in state.items() if isinstance(own, Tensor) and (own.dim() or not parameter.dim())]
    strange = [key for key in strange if key not in _BESIDE and key not in _KINDS]
    known = [key for key in _KINDS if key in state]
    if strange or len(known) > 1:
        raise _unknown(optimizer, f"its state of {name!r} has {[*strange, *known][0]!r}")
    if not known:
        if _preconditions(group):
            raise _unknown(optimizer, f"its state of {name!r} has {sorted(state)} and no second moment")
        return None
    make, options = _KINDS[known[0]]
    missing = [option for option in options if option not in group]
    if missing:
        raise _unknown(optimizer, f"it has {known[0]!r} and no option {missing[0]!r}")
    return make


def _unknown(optimizer: Optimizer, why: str) -> ControllerError:
    return ControllerError(
        f"how {type(optimizer).__name__} preconditions gradients is not known: {why}. MPSGD takes SGD, or optimizers "
        f"whose state has a second moment, {expected_one_of(_KINDS)}"
    )


def square_of_gradients(gradients: Vector, parameters: Vector, optimizer: Optimizer) -> float:
    """``<G, P G>``; not a number as long as P is not known of a parameter that has one."""
    metric, groups = preconditioner(parameters, optimizer), _groups_of(optimizer)
    if any(name not in metric and _preconditions(groups[parameters[name]]) for name in gradients):
        return math.nan
    return square(gradients, metric)


def square(vector: Vector, metric: Vector, *, inverse: bool = False) -> float:
    """``<v, P v>``, or with its inverse ``<v, v / P>``, in double precision; parameters that have no P have 1."""
    terms = []
    for name, own in vector.items():
        each = own.detach().double().square()
        weights = metric.get(name)
        if weights is not None:
            each = each / weights.double() if inverse else each * weights.double()
        terms.append(each.sum().item())
    return math.fsum(terms) if all(map(math.isfinite, terms)) else math.nan


def difference(first: Vector, second: Vector) -> dict[str, Tensor]:
    """Of the parameters that both have."""
    return {name: own.detach().double() - second[name].double() for name, own in first.items() if name in second}
