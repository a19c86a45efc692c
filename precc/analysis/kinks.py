"""Where a small error changes which way a gradient goes: rectifiers and max-pooling, as they stand in a joint graph."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from precc.analysis.flips import FlipSample
from precc.analysis.slot_sample import drawn_positions
from precc.analysis.step_runs import Values
from precc.analysis.traced_step import TracedStep
from precc.rounding import slot_number

__all__ = ["Kinks"]

_aten = torch.ops.aten

#: Backward operators of functions with kinks, (gradient, result or argument, ...): where the kinks are, and by what
#: share of the incoming gradient the outgoing one changes there.
_RECTIFIERS: dict[Any, Callable[[Node], tuple[tuple[float, ...], float]]] = {
    _aten.threshold_backward.default: lambda node: ((_number(node, 2),), 1.0),
    _aten.leaky_relu_backward.default: lambda node: ((0.0,), 1.0 - _number(node, 2)),
    _aten.hardswish_backward.default: lambda node: ((-3.0, 3.0), 1 / 2),
    _aten.hardsigmoid_backward.default: lambda node: ((-3.0, 3.0), 1 / 6),
    _aten.hardtanh_backward.default: lambda node: ((_number(node, 2), _number(node, 3)), 1.0),
}


def _number(node: Node, position: int) -> float:
    return float(str(node.args[position]))


#: (gradient, argument, kernel, stride, padding, dilation, ceil mode, indices).
_POOLING = frozenset({_aten.max_pool2d_with_indices_backward.default})

#: Of one pooling, that are looked at.
_MOST_WINDOWS = 1 << 17


@dataclass(slots=True, eq=False)
class _Kink:
    """One of them.

    Args:
        node: of the backward, whose result a flip changes.
        argument: whose values decide.
        incoming: the gradient that passes or does not.
        samples: how many elements or windows are kept.
        seed: of the choice.
        places: of the kinks, in the argument.
        share: of the incoming gradient that appears or vanishes.
    """

    node: Node
    argument: Node
    incoming: Node
    samples: int
    seed: int
    places: tuple[float, ...] = (0.0,)
    share: float = 1.0
    first: Tensor = field(init=False)  # positions in the argument: of the element; of the largest in a window
    second: Tensor | None = None  # of the next one in the window
    here: Tensor = field(init=False)  # the argument there
    distance: Tensor = field(init=False)  # from the kink
    weight: Tensor = field(init=False)  # elements that each one stands for
    gradient: Tensor = field(init=False)  # that passes here
    adjoint: Tensor | None = None
    adjoints: list[Tensor] = field(default_factory=list)
    errors: list[Tensor] = field(default_factory=list)  # of the argument where all slots are displaced

    def choose(self, z: Tensor, g: Tensor) -> None:
        """Take those near to the kink, all of them, and a sample of the others.

        Args:
            z: the argument.
            g: the incoming gradient.
        """
        self._choose(z.detach(), g.detach())
        self.here = self._at(z)
        self.distance = self._from_kink(self.here)

    def _choose(self, z: Tensor, g: Tensor) -> None:
        size = self._from_kink(z.reshape(-1)).abs()
        self.first, self.weight = _near_and_far(size, self.samples, self.seed)
        self.gradient = g.reshape(-1)[self.first].double() * self.share

    def _from_kink(self, z: Tensor) -> Tensor:
        """To the nearest one."""
        distances = torch.stack([z - place for place in self.places])
        return distances.gather(0, distances.abs().argmin(0, keepdim=True))[0] if len(distances) > 1 else distances[0]

    def _at(self, value: Tensor) -> Tensor:
        flat = value.detach().reshape(-1)
        here = flat[self.first].double()
        return here if self.second is None else here - flat[self.second].double()

    def note(self, adjoint: Tensor) -> None:
        self.adjoint = self._at(adjoint)

    def next_probe(self, scale: float) -> None:
        self.adjoints.append(torch.zeros_like(self.distance) if self.adjoint is None else self.adjoint * scale)
        self.adjoint = None

    def displace(self, argument: Tensor) -> None:
        self.errors.append(self._at(argument) - self.here)

    def flips(self) -> FlipSample:
        change = torch.stack(self.adjoints) * self.gradient
        errors, single = torch.stack(self.errors), self.second is None
        return FlipSample.of(self.argument.name, self.distance, errors, change, self.weight, near_zero=single)


@dataclass(slots=True, eq=False)
class _Pooling(_Kink):
    """The largest of a window and the next one; where that is a rectifier's 0, `_PooledRectifier` tells."""

    pool: Node = field(kw_only=True)

    def _choose(self, z: Tensor, g: Tensor) -> None:
        windows, places, best = _largest(z, g, self.pool, self.seed)
        gap = torch.where(best.values[:, 1] == 0, 0.0, best.values[:, 0] - best.values[:, 1])
        chosen, weight = _near_and_far(gap, self.samples, self.seed)
        self.first, self.second = (places[chosen].gather(1, best.indices[chosen, k : k + 1])[:, 0] for k in (0, 1))
        self.gradient = g.reshape(-1)[windows[chosen]].double()
        self.weight = weight * (g.numel() / max(len(windows), 1))


@dataclass(slots=True, eq=False)
class _PooledRectifier(_Kink):
    """The largest argument of a rectifier in a window of the pooling behind it: if it is negative, none passes."""

    pool: Node = field(kw_only=True)

    def _choose(self, z: Tensor, g: Tensor) -> None:
        windows, places, best = _largest(z, g, self.pool, self.seed)
        chosen, weight = _near_and_far(best.values[:, 0].abs(), self.samples, self.seed)
        self.first = places[chosen].gather(1, best.indices[chosen, :1])[:, 0]
        self.gradient = g.reshape(-1)[windows[chosen]].double()
        self.weight = weight * (g.numel() / max(len(windows), 1))


def _largest(z: Tensor, g: Tensor, pool: Node, seed: int) -> tuple[Tensor, Tensor, Any]:
    """Windows, positions of their elements, and the two largest of each; of all windows if they are not too many."""
    windows = drawn_positions(g.numel(), _MOST_WINDOWS // 2, seed, g.device)
    places, inside = _places(windows, z.shape, g.shape, pool)
    values = torch.where(inside, z.reshape(-1)[places], -torch.inf)
    if places.shape[1] < 2:
        places, values = places.repeat(1, 2), torch.cat([values, torch.full_like(values, -torch.inf)], 1)
    return windows, places, values.topk(2, 1)


def _near_and_far(size: Tensor, samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """Positions, all of the smallest and a sample of the others, and what each one stands for; zeros are left out."""
    drawn = drawn_positions(size.numel(), samples, seed, size.device)
    if len(drawn) == size.numel():
        return drawn, torch.ones(len(drawn), dtype=torch.float64, device=size.device)
    some = size[drawn].float()
    positive = some[some > 0]
    limit = positive.quantile(samples / 2 / size.numel()) if len(positive) else some.new_zeros(())
    near = ((size <= limit) & (size > 0)).nonzero()[:, 0]
    far = drawn[some > limit]
    weight = torch.full((len(near) + len(far),), size.numel() / len(drawn), dtype=torch.float64, device=size.device)
    weight[: len(near)] = 1.0
    return torch.cat([near, far]), weight


def _places(windows: Tensor, x: Sequence[int], y: Sequence[int], node: Node) -> tuple[Tensor, Tensor]:
    """Positions in the argument of all elements of each window, and which of them are inside."""
    kernel, stride, padding, dilation = (_pair(own) for own in node.args[2:6])
    where = torch.unravel_index(windows, tuple(y))
    planes = torch.zeros_like(windows)
    for size, own in zip(x[:-2], where[:-2], strict=True):
        planes = planes * size + own
    steps = stride or kernel
    lines = [
        where[-2 + d][:, None] * steps[d] - padding[d] + torch.arange(kernel[d], device=windows.device) * dilation[d]
        for d in (0, 1)
    ]
    rows, columns = lines[0][:, :, None], lines[1][:, None, :]
    inside = (rows >= 0) & (rows < x[-2]) & (columns >= 0) & (columns < x[-1])
    flat = (planes[:, None, None] * x[-2] + rows.clamp(0, x[-2] - 1)) * x[-1] + columns.clamp(0, x[-1] - 1)
    return flat.flatten(1), inside.flatten(1)


def _pair(argument: Any) -> list[int]:
    return list(argument) * 2 if len(argument) == 1 else list(argument)


@dataclass(slots=True, eq=False)
class Kinks:
    """All of a step, by the nodes that tell of them."""

    by_node: Mapping[Node, _Kink]
    by_argument: Mapping[Node, Sequence[_Kink]]

    @classmethod
    def of(cls, step: TracedStep, samples: int, seed: int) -> "Kinks":
        """Those of a step."""
        found = {}
        for node in step.graph.graph.nodes:
            kink = _kink(node, samples, seed ^ slot_number(node.name))
            if kink is not None:
                found[node] = kink
        by_argument: dict[Node, list[_Kink]] = {}
        for kink in found.values():
            by_argument.setdefault(kink.argument, []).append(kink)
        return cls(found, by_argument)

    def uses(self) -> dict[Node, tuple[Node, ...]]:
        """What is read at the backward of each beside its arguments."""
        return {node: (kink.argument, kink.incoming) for node, kink in self.by_node.items()}

    def see(self, node: Node, value: Any, values: Values) -> None:
        """Look at a node of the differentiable run."""
        kink = self.by_node.get(node)
        if kink is not None:
            kink.choose(values[kink.argument], values[kink.incoming])
            if value.requires_grad:
                value.register_hook(kink.note)

    def see_displaced(self, node: Node, value: Any, values: Values) -> None:
        """Look at a node of a run with displaced values."""
        for kink in self.by_argument.get(node, ()):
            kink.displace(value)

    def next_probe(self, scale: float) -> None:
        """The adjoints of one probe are complete; they are kept times a factor."""
        for kink in self.by_node.values():
            kink.next_probe(scale)

    def flips(self) -> tuple[FlipSample, ...]:
        """What was found; of those that the loss depends on."""
        kinks = self.by_node.values()
        return tuple(kink.flips() for kink in kinks if kink.adjoints and kink.errors)


def _kink(node: Node, samples: int, seed: int) -> _Kink | None:
    if node.target in _POOLING:
        return _Pooling(node, _before(node.args[1]), node.args[0], samples, seed, pool=node)  # type: ignore[arg-type]
    if node.target not in _RECTIFIERS:
        return None
    argument, gradient = _before(node.args[1], _aten.relu.default), node.args[0]
    assert isinstance(gradient, Node)
    if gradient.target in _POOLING and _before(gradient.args[1]) is _before(node.args[1]):
        incoming: Any = gradient.args[0]
        return _PooledRectifier(node, argument, incoming, samples, seed, pool=gradient)
    places, share = _RECTIFIERS[node.target](node)
    return _Kink(node, argument, gradient, samples, seed, places, share)


def _before(node: Any, *functions: Any) -> Node:
    """What a result comes from, through these functions."""
    while node.target in (_aten.detach.default, *functions):
        node = node.args[0]
    found: Node = node
    return found
