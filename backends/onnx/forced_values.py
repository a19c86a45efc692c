"""What torch computes from one rounding to the next, and by how much another order of float operations may be off.

The traced forward runs once in its own types, each rounding where the file has it; this gives the values. Then it runs
in float64, from the same rounded values on: as it is, and with every value on the way changed by a roundoff of the
net's types, up or down. How far values move is what float arithmetic explains, through sums that cancel, softmax and
norms too: no rounding of a format is between. What jumps (comparisons, indices, whole numbers) is what it was in the
first run.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx import Interpreter, Node
from torch.fx.node import map_aggregate
from torch.utils import _pytree

from precc.annotations import Operand
from precc.backends.onnx.traced_net import TracedNet
from precc.errors import CaptureError
from precc.rounding import Row, quantize
from precc.stored_nodes import op_name

__all__ = ["ForcedValue", "ForcedValues", "input_names"]

#: A runtime's error may be so many times that of torch, or of the changed runs: the largest of these in the tensor.
_FACTOR = 16

#: And so many roundoffs of the largest value: short sums in torch can be exact by chance.
_ROUNDOFFS = 32

#: How often every value is changed.
_CHANGED_RUNS = 2

_JUMPS = frozenset(
    f"aten.{name}"
    for name in ("ceil", "floor", "floor_divide", "fmod", "frac", "heaviside", "remainder", "round", "sign", "trunc")
)


@dataclass(frozen=True, slots=True, eq=False)
class ForcedValue:
    """Of one tensor.

    Args:
        value: in the net's own type.
        tolerance: by how much another order of operations may be off.
    """

    value: Tensor
    tolerance: float


@dataclass(frozen=True, slots=True, eq=False)
class ForcedValues:
    """Of one net and its inputs.

    Args:
        before: what is rounded, by slot.
        after: what it is rounded to, by slot.
        outputs: the tensors that the net returns.
    """

    before: Mapping[str, ForcedValue]
    after: Mapping[str, Tensor]
    outputs: tuple[ForcedValue, ...]

    @classmethod
    @torch.no_grad()
    def of(cls, traced: TracedNet, rows: Mapping[str, Row], leaves: Sequence[Any]) -> "ForcedValues":
        """Run the net.

        Args:
            traced: the net.
            rows: by which slots are rounded; the others are not.
            leaves: of its inputs, in their order.

        Raises:
            CaptureError: torch cannot run the traced forward by itself, or not in float64.
        """
        try:
            own = _Run(traced, rows)
            outputs = own.outputs(leaves)
            runs = [_Run(traced, rows, own, change) for change in range(_CHANGED_RUNS + 1)]
            wide = [run.outputs(leaves) for run in runs]
        except Exception as error:  # of any operator
            raise CaptureError(f"torch cannot run the traced forward by itself: {error}") from error
        u = own.roundoff
        before = {
            slot: ForcedValue(value, _tolerance(value, [run.before[slot] for run in runs], u))
            for slot, value in own.before.items()
        }
        found = [ForcedValue(own, _tolerance(own, others, u)) for own, *others in zip(outputs, *wide, strict=True)]
        return cls(before, own.after, tuple(found))


def input_names(traced: TracedNet) -> tuple[str, ...]:
    """Of the net's inputs, in the order of their leaves."""
    specs = traced.program.graph_signature.input_specs
    return tuple(str(spec.arg.name) for spec in specs if spec.kind is InputKind.USER_INPUT)


def _tolerance(own: Tensor, wide: Sequence[Tensor], roundoff: float) -> float:
    """Of a tensor whose values are finite, by its run in float64 and those with changed values."""
    if not own.is_floating_point() or not own.numel():
        return 0.0
    exact, *changed = wide
    moved = torch.stack([(other.double() - exact).abs() for other in (own, *changed)])
    moved = torch.where(own.isfinite() & moved.isfinite(), moved, 0.0)
    largest = torch.where(own.isfinite(), own.double().abs(), 0.0).max()
    tiny = torch.finfo(own.dtype).tiny  # subnormal numbers may be taken for zero
    return float(_FACTOR * moved.max() + _ROUNDOFFS * roundoff * largest) + tiny


class _Run(Interpreter):
    """One run: in the net's own types, or after that one in float64."""

    def __init__(self, traced: TracedNet, rows: Mapping[str, Row], first: "_Run | None" = None, change: int = 0):
        super().__init__(traced.program.graph_module)
        self.before: dict[str, Tensor] = {}
        self.after: dict[str, Tensor] = {}
        self.roundoff = 0.0
        self._kept: dict[str, Any] = {}
        self._traced, self._rows, self._first, self._change = traced, rows, first, change
        self._generator = torch.Generator().manual_seed(change)
        self._operands: dict[str, list[Operand]] = {}
        for node, operand in traced.operands:
            self._operands.setdefault(node.name, []).append(operand)
        self._results = {stored.name: own.slot.name for _, own, stored in traced.results if own.slot.name in rows}

    def outputs(self, leaves: Sequence[Any]) -> list[Tensor]:
        """The tensors that the net returns for these inputs."""
        given = iter(leaves)
        program = self._traced.program
        nodes = program.graph_module.graph.find_nodes(op="placeholder")
        specs = program.graph_signature.input_specs
        values = [
            next(given) if spec.kind is InputKind.USER_INPUT else self._traced.constant(node)
            for node, spec in zip(nodes, specs, strict=True)
        ]
        copies = [value.detach().clone() if isinstance(value, Tensor) else value for value in values]
        found = self.run(*copies, enable_io_processing=False)
        kinds = [spec.kind for spec in program.graph_signature.output_specs]
        pairs = zip(kinds, found, strict=True)
        return [own for kind, own in pairs if kind is OutputKind.USER_OUTPUT and isinstance(own, Tensor)]

    def run_node(self, n: Node) -> Any:
        if n.op == "output":
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        given: Any = list(args)
        for operand in self._operands.get(n.name, ()):
            given[operand.position] = self._rounded(operand.slot.name, given[operand.position])
        if self._first is not None:
            given, kwargs = map_aggregate((tuple(given), kwargs), _wide_dtype)
        value = self._settled(n, getattr(self, n.op)(n.target, tuple(given), kwargs))
        return self._rounded(self._results[n.name], value) if n.name in self._results else value

    def _rounded(self, slot: str, value: Tensor) -> Tensor:
        self.before[slot] = value
        if self._first is not None:
            return self._changed(self._first.after[slot].double())
        row = self._rows.get(slot)
        self.after[slot] = value if row is None else quantize(value, row)
        return self.after[slot]

    def _settled(self, node: Node, value: Any) -> Any:
        """A value of this run; where it jumps, of the first."""
        leaves, spec = _pytree.tree_flatten(value)
        if self._first is None:
            floating = [leaf for leaf in leaves if _is_floating(leaf)]
            self.roundoff = max([self.roundoff, *(torch.finfo(leaf.dtype).eps / 2 for leaf in floating)])
            self._kept[node.name] = [None if _moves(node, leaf) else leaf for leaf in leaves]
            return value
        first = self._first._kept[node.name]
        settled = [
            self._changed(leaf.double()) if kept is None else _widened(kept)
            for leaf, kept in zip(leaves, first, strict=True)
        ]
        return _pytree.tree_unflatten(settled, spec)

    def _changed(self, value: Tensor) -> Tensor:
        if not self._change:
            return value
        assert self._first is not None
        signs = torch.randint(0, 2, value.shape, generator=self._generator).to(value) * 2 - 1
        return torch.where(value.isfinite(), value * (1 + self._first.roundoff * signs), value)


def _moves(node: Node, leaf: Any) -> bool:
    """Whether it is a value that a roundoff moves a little."""
    return _is_floating(leaf) and op_name(node) not in _JUMPS


def _is_floating(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point()


def _widened(leaf: Any) -> Any:
    return leaf.double() if _is_floating(leaf) else leaf


def _wide_dtype(argument: Any) -> Any:
    return torch.float64 if isinstance(argument, torch.dtype) and argument.is_floating_point else argument


def is_within(found: Tensor, expected: ForcedValue) -> tuple[bool, float]:
    """Whether values are within the tolerance, and by how much they are off; what is not finite is to be equal."""
    own = expected.value
    if not own.is_floating_point() or not found.is_floating_point():
        same = found.dtype == own.dtype and torch.equal(found, own)
        return same, 0.0 if same else math.nan
    found, own = found.double(), own.double()
    equal = (found == own) | (found.isnan() & own.isnan())
    off = float(torch.where(equal, 0.0, (found - own).abs()).max()) if own.numel() else 0.0
    return off <= expected.tolerance, off
