"""Condition numbers of the components of forward products, of a sample of rows or images and of all channels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.fx import Node

from precc.analysis.component_conditions import ComponentConditions
from precc.analysis.slot_sites import is_view
from precc.analysis.step_runs import StepRunner, Values, unrounded
from precc.analysis.traced_step import TracedStep
from precc.annotations import Product, products_of
from precc.condition_numbers import activation_condition, inner_product_condition
from precc.slots import Role

__all__ = ["ComponentConditionNumbers", "activation_after"]

_aten = torch.ops.aten

#: Activations by the op that they are; GELU without approximation.
_ACTIVATIONS: dict[Any, str] = {
    _aten.relu.default: "relu",
    _aten.tanh.default: "tanh",
    _aten.sigmoid.default: "sigmoid",
    _aten.silu.default: "silu",
    _aten.gelu.default: "gelu",
    _aten.exp.default: "exp",
}

#: So many components are looked at, if that leaves each channel `_LEAST` rows; an image is taken as a whole.
_COMPONENTS, _LEAST = 2**15, 8


def activation_after(node: Node) -> str:
    """The activation that all readers of a product's result are, views between; ``"identity"`` if there is none such.

    What reads it in the backward, for a derivative, does not count.
    """
    names = {_name(own) for own in _readers(node) if "backward" not in str(own.target)}
    return names.pop() if len(names) == 1 else "identity"


def _readers(node: Node) -> list[Node]:
    found: list[Node] = []
    for user in node.users:
        found += _readers(user) if is_view(user) else [user]
    return found


def _name(node: Node) -> str:
    exact = node.kwargs.get("approximate", "none") == "none"
    return _ACTIVATIONS.get(node.target, "identity") if exact else "identity"


@dataclass(frozen=True, slots=True)
class ComponentConditionNumbers:
    """Find them for matrix products and convolutions; not within fused attention, nor for products of grouped rows."""

    name: ClassVar[str] = "component_condition"

    def watcher(self, step: TracedStep) -> "_Watcher":
        """Collects them in a run of the caller's, by its `watch`."""
        products = {node: own for node, own in products_of(step.graph.graph) if own.role is Role.FPROP}
        return _Watcher({node: own for node, own in products.items() if node.target in _PRODUCTS})

    def run(self, step: TracedStep) -> dict[str, ComponentConditions]:
        """By op, such as ``conv2/product``."""
        watcher = self.watcher(step)
        with torch.no_grad():
            StepRunner(step).run(unrounded, watch=watcher.watch)
        return watcher.found


@dataclass(slots=True, eq=False)
class _Watcher:
    """What was found so far.

    Args:
        products: to look at.
        found: by op.
    """

    products: dict[Node, Product]
    found: dict[str, ComponentConditions] = field(default_factory=dict)

    def watch(self, node: Node, value: Any, values: Values) -> None:
        """Of one node, called before its value is among the others."""
        product = self.products.get(node)
        if product is None:
            return
        arguments = torch.fx.node.map_arg(node.args, lambda own: values[own].detach())
        sums, magnitudes = _PRODUCTS[node.target](*arguments, **node.kwargs)
        activation = activation_after(node)
        kappas = activation_condition(sums, activation) * inner_product_condition(sums, magnitudes)
        kappas = torch.where(kappas.isnan(), math.inf, kappas).cpu()
        self.found[product.op] = ComponentConditions.of(activation, kappas.movedim(1, 0).flatten(1))


_Pair = tuple[Tensor, Tensor]  # sums and the magnitudes of their terms, [rows, channels, ...], float64


def _some(x: Tensor, channels: int, each: int = 1) -> Tensor:
    """Some rows of x, spread evenly, that have so many components in each channel."""
    count = len(x)
    most = min(count, max(1, _LEAST // max(each, 1), _COMPONENTS // max(channels * each, 1)))
    return x[torch.linspace(0, count - 1, most).round().long().to(x.device)] if count else x


def _mm(a: Tensor, b: Tensor) -> _Pair:
    rows, columns = _some(a, b.shape[1]).double(), b.double()
    return rows @ columns, rows.abs() @ columns.abs()


def _addmm(bias: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> _Pair:
    added = bias if bias.dim() < 2 or bias.shape[0] == 1 else _some(bias, b.shape[1])
    sums, magnitudes = _mm(a, b)
    return alpha * sums + beta * added.double(), abs(alpha) * magnitudes


def _bmm(a: Tensor, b: Tensor) -> _Pair:
    items = torch.linspace(0, len(a) - 1, min(len(a), _LEAST)).round().long().to(a.device)
    found = [_mm(a[item], b[item]) for item in items.tolist()]
    return torch.cat([sums for sums, _ in found]), torch.cat([magnitudes for _, magnitudes in found])


def _baddbmm(bias: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> _Pair:
    items = torch.linspace(0, len(a) - 1, min(len(a), _LEAST)).round().long().tolist()
    whole = bias.expand(a.shape[0], a.shape[1], b.shape[2])
    found = [_addmm(whole[item], a[item], b[item], beta=beta, alpha=alpha) for item in items]
    return torch.cat([sums for sums, _ in found]), torch.cat([magnitudes for _, magnitudes in found])


def _convolution(x: Tensor, weight: Tensor, bias: Tensor | None, *options: Any) -> _Pair:
    transposed, groups = bool(options[3]), int(options[5])
    channels = weight.shape[1] * groups if transposed else weight.shape[0]
    images, filters = _some(x, channels, _outputs(x, weight, options)).double(), weight.double()
    sums = _aten.convolution(images, filters, None if bias is None else bias.double(), *options)
    return sums, _aten.convolution(images.abs(), filters.abs(), None, *options)


def _outputs(x: Tensor, weight: Tensor, options: Sequence[Any]) -> int:
    """Components of a channel of one image."""
    shape = _aten.convolution(x[:1].to("meta"), weight.to("meta"), None, *options).shape
    return math.prod(shape[2:])


_PRODUCTS: dict[Any, Any] = {
    _aten.mm.default: _mm,
    _aten.addmm.default: _addmm,
    _aten.bmm.default: _bmm,
    _aten.baddbmm.default: _baddbmm,
    _aten.convolution.default: _convolution,
}
