"""Casts: one pass over a value that writes rounded copies of it, row-major, packed, and packed transposed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.fx import Node

from precc.backends.triton.device import Device
from precc.backends.triton.kernel_source import KernelSource
from precc.backends.triton.program import Built, Group, LiveRow, Rows
from precc.backends.triton.templates.cast_chain import CastNode, cast_nodes, viewed
from precc.backends.triton.templates.cast_copies import Copy, alike
from precc.backends.triton.templates.cast_kernels import CastKernels, kernels_of
from precc.errors import BackendError, FormatError
from precc.fusion_group import GroupKind

__all__ = ["CastProgram", "CastTemplate"]


@dataclass(frozen=True, slots=True)
class CastTemplate:
    """Groups that round one value, and its transposes and views.

    A run reads the value once and writes each copy once; scales of blocks and tiles, and of rows that a tile can hold,
    are found in that pass. A scale of the tensor, of long rows or of channels takes a first kernel that reads the
    value once more. Copies whose blocks do not fit into each other, or that different carriers round, have kernels of
    their own. The program records no largest magnitudes: what runs it does, by `precc.amax_history.record`.
    """

    kind: ClassVar[GroupKind] = GroupKind.CAST

    def build(self, group: Group, args: Sequence[Any], rows: Rows, device: Device) -> Built:
        """The program of a group; a sentence where a node or a row is none of a cast."""
        try:
            value, nodes = cast_nodes(group.module)
            program = CastProgram(group, value, tuple(nodes), device, rows)
            program.prepare(args, rows)
        except (BackendError, FormatError) as error:
            return f"{group.record.name}: {str(error).removeprefix('triton: ')}"
        return program


@dataclass(slots=True)
class _Run:
    """Some of the copies: what is read, the kernels, and which results they are."""

    operand: int
    kernels: CastKernels
    results: tuple[int, ...]


class CastProgram:
    """The kernels of a group of roundings of one value."""

    def __init__(self, group: Group, value: Node, nodes: tuple[CastNode, ...], device: Device, rows: Rows) -> None:
        self._group, self._value, self._nodes, self._device = group, value, nodes, device
        self._placeholders = [
            node for node in group.module.graph.nodes if node.op == "placeholder" and not _is_plan(node, nodes)
        ]
        (output,) = (node for node in group.module.graph.nodes if node.op == "output")
        outputs = output.args[0]
        self._outputs: tuple[Node, ...] = tuple(outputs) if isinstance(outputs, (tuple, list)) else (outputs,)
        self._built: list[_Run] = []

    @property
    def kernels(self) -> Sequence[KernelSource]:
        """In the order in which they run."""
        return [source for run in self._built for source in run.kernels.sources]

    def prepare(self, args: Sequence[Any], rows: Rows) -> None:
        """The kernels for arguments like these.

        Raises:
            BackendError: a copy has no kernel.
        """
        self._built = self._runs(self._operands(args), rows)

    def __call__(self, args: Sequence[Any], rows: Rows) -> tuple[Tensor, ...]:
        """The outputs of the group."""
        operands = self._operands(args)
        made: dict[Node, Any] = dict(zip(self._placeholders, args, strict=True))
        for run in self._runs(operands, rows):
            live = [rows[self._nodes[n].row] for n in run.results]
            copies = run.kernels(operands[run.operand], live)
            made |= {self._nodes[n].node: copy for n, copy in zip(run.results, copies, strict=True)}
        return tuple(made[node] if node in made else viewed((node,), made) for node in self._outputs)

    def _operands(self, args: Sequence[Any]) -> list[Tensor]:
        """What each node rounds."""
        values: dict[Node, Any] = dict(zip(self._placeholders, args, strict=True))
        return [viewed(node.chain, values) if node.chain else values[self._value] for node in self._nodes]

    def _runs(self, operands: Sequence[Tensor], rows: Rows) -> list[_Run]:
        """The copies of each operand and its permutations together, as far as kernels can."""
        left = list(range(len(operands)))
        runs: list[_Run] = []
        while left:
            first = left[0]
            together = [n for n in left if _permutation(operands[first], operands[n]) is not None]
            try:
                runs.append(self._run(operands, together, rows))
            except BackendError:
                if len(together) == 1:
                    raise
                runs += [self._run(operands, [n], rows) for n in together]
            left = [n for n in left if n not in together]
        return runs

    def _run(self, operands: Sequence[Tensor], numbers: Sequence[int], rows: Rows) -> _Run:
        base = operands[numbers[0]]
        copies = tuple(self._copy(base, operands[n], self._nodes[n], rows[self._nodes[n].row]) for n in numbers)
        kernels = kernels_of(
            tuple(base.shape), base.stride(), base.dtype, copies, self._device, self._group.record.name
        )
        return _Run(numbers[0], kernels, tuple(numbers))

    def _copy(self, base: Tensor, operand: Tensor, node: CastNode, live: LiveRow) -> Copy:
        if live.row is None:
            raise BackendError(f"triton: the row of {node.node.name} is that of an accumulator")
        if live.row.transform is not None:
            raise BackendError(f"triton: {node.node.name} transforms its value before it rounds")
        permutation = _permutation(base, operand)
        assert permutation is not None
        strides = () if node.packed else torch.empty_like(operand, device="meta").stride()
        numbers = node.row if live.row.is_stochastic or not live.row.finds_scales else 0
        return Copy(alike(live.row, operand.dtype), permutation, node.packed, node.transposed, strides, numbers)


def _is_plan(node: Node, nodes: Sequence[CastNode]) -> bool:
    return any(own.node.args[1] is node for own in nodes)


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
