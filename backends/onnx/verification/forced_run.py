"""One run of a traced forward, with the roundings of a file, that knows what each rounding reads and gives."""

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
from precc.rounding import Row, quantize
from precc.stored_nodes import op_name

__all__ = ["ForcedRun", "roundoff_of"]

#: Beside what gives no floats, ops whose results a roundoff of an argument changes by whole steps.
_JUMPS = frozenset(
    f"aten.{name}"
    for name in ("ceil", "floor", "floor_divide", "fmod", "frac", "heaviside", "remainder", "round", "sign", "trunc")
)


def roundoff_of(value: Tensor) -> float:
    """Of its type."""
    return torch.finfo(value.dtype).eps / 2


class ForcedRun(Interpreter):
    """In the net's own types, or after that run in float64.

    Args:
        traced: the net.
        rows: by which slots are rounded.
        first: the run in the net's own types; None: this is it.
        change: 0: no value is changed; else the seed by which each is, up or down.
    """

    def __init__(self, traced: TracedNet, rows: Mapping[str, Row], first: "ForcedRun | None" = None, change: int = 0):
        super().__init__(traced.program.graph_module)
        self.before: dict[str, Tensor] = {}
        self.after: dict[str, Tensor] = {}
        self._kept: dict[str, list[Any]] = {}
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
            forced = self._first.after[slot]
            return self._changed(forced.double(), roundoff_of(forced))
        row = self._rows.get(slot)
        self.after[slot] = value if row is None else quantize(value, row)
        return self.after[slot]

    def _settled(self, node: Node, value: Any) -> Any:
        """A value of this run; where it jumps, of the first."""
        leaves, spec = _pytree.tree_flatten(value)
        if self._first is None:
            self._kept[node.name] = [_Moving(roundoff_of(leaf)) if _moves(node, leaf) else leaf for leaf in leaves]
            return value
        settled = [
            self._changed(leaf.double(), kept.roundoff) if isinstance(kept, _Moving) else _widened(kept)
            for leaf, kept in zip(leaves, self._first._kept[node.name], strict=True)
        ]
        return _pytree.tree_unflatten(settled, spec)

    def _changed(self, value: Tensor, roundoff: float) -> Tensor:
        if not self._change:
            return value
        signs = torch.randint(0, 2, value.shape, generator=self._generator).to(value) * 2 - 1
        return torch.where(value.isfinite(), value * (1 + roundoff * signs), value)


@dataclass(frozen=True, slots=True)
class _Moving:
    """What stands for a value that a roundoff moves a little: of the type that it had."""

    roundoff: float


def _moves(node: Node, leaf: Any) -> bool:
    """Whether it is a value that a roundoff moves a little."""
    return _is_floating(leaf) and op_name(node) not in _JUMPS


def _is_floating(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point()


def _widened(leaf: Any) -> Any:
    return leaf.double() if _is_floating(leaf) else leaf


def _wide_dtype(argument: Any) -> Any:
    return torch.float64 if isinstance(argument, torch.dtype) and argument.is_floating_point else argument
