"""Casts: one pass over a value that writes rounded copies of it, row-major, packed, and packed transposed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.fx import Node

from precc.backends.triton.alike_rows import alike
from precc.backends.triton.device import Device
from precc.backends.triton.kernel_source import KernelSource
from precc.backends.triton.program import Built, Group, Rows
from precc.backends.triton.templates.cast_chain import CastNode, View, cast_nodes
from precc.backends.triton.templates.cast_copies import Copy
from precc.backends.triton.templates.cast_kernels import CastKernels, kernels_of
from precc.backends.triton.templates.group_values import group_values, outputs_of, placeholders_of
from precc.errors import BackendError, FormatError
from precc.fusion_group import GroupKind

__all__ = ["CastProgram", "CastTemplate"]


@dataclass(frozen=True, slots=True)
class CastTemplate:
    """Groups that round one value, and its transposes and views.

    A run reads the value once and writes each copy once; scales of blocks and tiles, and of rows that a tile can hold,
    are found in that pass. A scale of the tensor, of long rows or of channels takes a first kernel that reads the
    value once more. Copies whose blocks do not fit into each other, or that different carriers round, have kernels of
    their own.
    """

    kind: ClassVar[GroupKind] = GroupKind.CAST

    def build(self, group: Group, args: Sequence[Any], rows: Rows, device: Device) -> Built:
        """The program of a group; a sentence where a node or a row is none of a cast."""
        try:
            return CastProgram.of(group, args, rows, device)
        except (BackendError, FormatError) as error:
            return f"{group.record.name}: {str(error).removeprefix('triton: ')}"


@dataclass(frozen=True, slots=True, eq=False)
class _Run:
    """Some of the copies: what is read, the kernels, the nodes that are made, and numbers of their rows."""

    operand: View
    kernels: CastKernels
    results: tuple[Node, ...]
    rows: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class CastProgram:
    """The kernels of a group of roundings of one value.

    Args:
        placeholders: but the plan's.
        runs: one after the other.
        outputs: of the group.
    """

    placeholders: tuple[Node, ...]
    runs: tuple[_Run, ...]
    outputs: tuple[View, ...]

    @classmethod
    def of(cls, group: Group, args: Sequence[Any], rows: Rows, device: Device) -> "CastProgram":
        """For arguments like these.

        Raises:
            BackendError: a node is none of a cast, or a copy has no kernel.
            FormatError: a scaling has dimensions that the value has not.
        """
        value, nodes = cast_nodes(group.module)
        placeholders = tuple(placeholders_of(group.module))
        runs = _Runs(group.record.name, group_values(group.module, args), value, rows, device)
        found = tuple(runs.of(nodes))
        made = {*placeholders, *(own.node for own in nodes)}
        return cls(placeholders, found, tuple(View.of(node, made, runs.values) for node in outputs_of(group.module)))

    @property
    def kernels(self) -> Sequence[KernelSource]:
        """In the order in which they run."""
        return [source for run in self.runs for source in run.kernels.sources]

    def __call__(self, args: Sequence[Any], rows: Rows) -> tuple[Tensor, ...]:
        """The outputs of the group."""
        made: dict[Node, Any] = dict(zip(self.placeholders, args, strict=True))
        for run in self.runs:
            copies = run.kernels(run.operand(made), [rows[number] for number in run.rows])
            made.update(zip(run.results, copies, strict=True))
        return tuple(output(made) for output in self.outputs)


@dataclass(frozen=True, slots=True)
class _Runs:
    """Puts roundings of one value together.

    Args:
        name: of the group.
        values: of its nodes, without data.
        value: the one that is rounded.
        rows: of the plan.
        device: that the kernels are for.
    """

    name: str
    values: Mapping[Node, Any]
    value: Node
    rows: Rows
    device: Device

    def of(self, nodes: Sequence[CastNode]) -> list[_Run]:
        """The copies of each operand and its permutations together, as far as kernels can."""
        left = list(nodes)
        runs: list[_Run] = []
        while left:
            first = self._operand(left[0])
            together = [own for own in left if _permutation(first, self._operand(own)) is not None]
            try:
                runs.append(self._run(together))
            except BackendError:
                if len(together) == 1:
                    raise
                runs += [self._run([own]) for own in together]
            left = [own for own in left if own not in together]
        return runs

    def _operand(self, own: CastNode) -> Tensor:
        operand = self.values[own.chain[-1] if own.chain else self.value]
        assert isinstance(operand, Tensor)
        return operand

    def _run(self, nodes: Sequence[CastNode]) -> _Run:
        base = self._operand(nodes[0])
        copies = tuple(self._copy(base, own) for own in nodes)
        kernels = kernels_of(tuple(base.shape), base.stride(), base.dtype, copies, self.device, self.name)
        view = View.of(nodes[0].chain[-1] if nodes[0].chain else self.value, {self.value}, self.values)
        return _Run(view, kernels, tuple(own.node for own in nodes), tuple(own.row for own in nodes))

    def _copy(self, base: Tensor, node: CastNode) -> Copy:
        live, operand = self.rows[node.row], self._operand(node)
        row = live.row
        if row is None:
            raise BackendError(f"triton: the row of {node.node.name} is that of an accumulator")
        if row.transform is not None:
            raise BackendError(f"triton: {node.node.name} transforms its value before it rounds")
        permutation = _permutation(base, operand)
        assert permutation is not None
        strides = () if node.packed else torch.empty_like(operand).stride()
        numbers = node.row if row.is_stochastic or not row.finds_scales else 0
        same = alike(row, operand.dtype)
        return Copy(same, permutation, node.packed, node.transposed, strides, numbers, live.records)


def _permutation(base: Tensor, operand: Tensor) -> tuple[int, ...] | None:
    """Which dimension of the base each dimension of the operand is; None where it is no permutation of the base."""
    if base.dim() != operand.dim() or base.storage_offset() != operand.storage_offset():
        return None
    free = list(zip(base.shape, base.stride(), strict=True))
    places: list[int] = []
    for own in zip(operand.shape, operand.stride(), strict=True):
        same = [n for n, dim in enumerate(free) if dim == own and n not in places]
        if not same:
            return None
        places.append(len(places) if len(places) in same else same[0])
    return tuple(places)
