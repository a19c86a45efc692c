"""Operations along rows with the roundings of what they give: norms, softmax, gated activations, their backwards."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from precc.backends.triton.device import Device
from precc.backends.triton.kernel_source import KernelSource
from precc.backends.triton.program import Built, Group, Program, Rows
from precc.backends.triton.templates.bound_kernel import BoundKernel
from precc.backends.triton.templates.cast import CastTemplate
from precc.backends.triton.templates.cast_chain import CastNode, View
from precc.backends.triton.templates.cast_kernels import programs_of
from precc.backends.triton.templates.cast_lines import cast_lines
from precc.backends.triton.templates.cast_outputs import CastOutputs, sizes_of
from precc.backends.triton.templates.cast_text import CastText
from precc.backends.triton.templates.output import Output
from precc.backends.triton.templates.rows_copies import InlineCopies, inline_copies, rows_text_of
from precc.backends.triton.templates.rows_group import RowsGroup, float_dtypes
from precc.backends.triton.templates.rows_text import RowsText
from precc.errors import BackendError, FormatError
from precc.fusion_group import GroupKind
from precc.rounding.tensor_ops import carrier_of_dtype

__all__ = ["RowsProgram", "RowsTemplate"]


@dataclass(frozen=True, slots=True)
class RowsTemplate:
    """Groups that compute a value along its rows, and round it.

    One kernel reads what is given once, computes in float32 (float64 for tensors of it) with the result of each
    operator rounded to its dtype, as between operators of torch, and writes what others read, and the copies. Copies
    with a scale of the whole tensor or of a channel, and those of transposes of more than two dimensions, are made by
    kernels behind it. Sums over rows, the gradients of a norm's parameters, are written tile by tile and summed by
    torch.
    """

    kind: ClassVar[GroupKind] = GroupKind.ROWS

    def build(self, group: Group, args: Sequence[Any], rows: Rows, device: Device) -> Built:
        """The program of a group; a sentence where a node or a row is none of a kernel of rows."""
        try:
            return RowsProgram.of(RowsGroup.of(group, args), rows, device)
        except (BackendError, FormatError) as error:
            return f"{group.record.name}: {str(error).removeprefix('triton: ')}"


@dataclass(frozen=True, slots=True, eq=False)
class RowsProgram:
    """The kernels of a group.

    Args:
        placeholders: of the group, but the plan's.
        kernel: the first.
        loaded: what it reads, by name.
        results: what it writes beside copies.
        copies: those.
        inline: the roundings that give them.
        shapes: of these nodes where they are values; None of packed ones.
        behind: the roundings of other kernels; None where there are none.
        outputs: of the group.
    """

    placeholders: tuple[Node, ...]
    kernel: BoundKernel
    loaded: tuple[tuple[str, View], ...]
    results: tuple["_Result", ...]
    copies: CastOutputs
    inline: tuple[CastNode, ...]
    shapes: tuple[torch.Size | None, ...]
    behind: "_Behind | None"
    outputs: tuple[View, ...]

    @classmethod
    def of(cls, group: RowsGroup, rows: Rows, device: Device) -> "RowsProgram":
        """The program for live rows.

        Raises:
            BackendError: no kernel computes a node, or rounds so.
        """
        copies = inline_copies(group, rows)
        stored = _stored(group, copies)
        carrier = _carrier(group)
        value = group.values[group.base]
        inline = [copy for _, copy in copies.inline]
        own = carrier_of_dtype(value.dtype, inline[0].row if inline else None)
        text = rows_text_of(group, inline, device, len(group.placeholders) + len(stored))
        rounding = f"tl.{str(own.dtype).removeprefix('torch.')}" if inline else ""
        written = RowsText(group, carrier, rounding, stored)
        source = _source(group, text, written)
        placeholders, nodes = tuple(group.placeholders), tuple(node for node, _ in copies.inline)
        made = {*placeholders, *stored, *(node.node for node in group.roundings)}
        return cls(
            placeholders,
            BoundKernel.of(source, (programs_of(text),), _strides(text, written)),
            tuple((f"{name}_ptr", group.view(node, placeholders)) for name, (node, _) in written.loaded.items()),
            tuple(_result(group, text, written, node) for node in stored),
            CastOutputs.of(text, group.shape, [source]),
            nodes,
            tuple(None if node.packed else group.values[node.node].shape for node in nodes),
            _behind(group, copies.behind, rows, device) if copies.behind else None,
            tuple(group.view(node, made) for node in group.outputs),
        )

    @property
    def kernels(self) -> Sequence[KernelSource]:
        """In the order in which they run."""
        return [self.kernel.source, *(self.behind.program.kernels if self.behind is not None else ())]

    def __call__(self, args: Sequence[Any], rows: Rows) -> tuple[Tensor, ...]:
        """The outputs of the group."""
        made: dict[Node, Any] = dict(zip(self.placeholders, args, strict=True))
        device = next(own.device for own in args if isinstance(own, Tensor))
        copies = self.copies.empty(device)
        given = self.copies.given(copies, [rows[own.row] for own in self.inline])
        for own in self.results:
            made[own.node] = own.output.empty(device)
            if own.sum is not None:
                made[own.node].zero_()  # one row a program, of which tiles of other columns write none
            own.output.give(given, made[own.node])
        if self.kernel.grid[0]:
            given |= {name: view(made) for name, view in self.loaded}
            self.kernel(given)
        for own in self.results:
            if own.sum is not None:
                made[own.node] = made[own.node].sum(0).to(own.sum)
        for node, copy, shape in zip(self.inline, copies, self.shapes, strict=True):
            made[node.node] = copy if shape is None else copy.view(shape)
        if self.behind is not None:
            self.behind.run(made, rows)
        return tuple(output(made) for output in self.outputs)


@dataclass(frozen=True, slots=True)
class _Result:
    """What the kernel writes of a node; the dtype of the node, where it is the sum of the rows of that; else None."""

    node: Node
    output: Output
    sum: torch.dtype | None


def _result(group: RowsGroup, text: CastText, written: RowsText, node: Node) -> _Result:
    value = group.values[node]
    if node not in written.partial:
        return _Result(node, Output.like(f"{written.written[node].name}_ptr", value), None)
    count = programs_of(text) * (text.tile.rows.length // text.tile.step)
    dtype = torch.float64 if written.carrier == "tl.float64" else torch.float32
    columns = group.shape[1]
    return _Result(node, Output(f"{node.name}_part_ptr", dtype, (count, columns), (columns, 1)), value.dtype)


def _strides(text: CastText, written: RowsText) -> dict[str, int]:
    found = sizes_of(text)
    for own in (*(tensor for _, tensor in written.loaded.values()), *written.written.values()):
        found |= own.given
    return found


@dataclass(frozen=True, slots=True, eq=False)
class _Behind:
    """A cast of the value that the first kernel wrote."""

    program: Program
    base: View
    results: tuple[Node, ...]

    def run(self, made: dict[Node, Any], rows: Rows) -> None:
        """Put the copies to the other values."""
        made.update(zip(self.results, self.program([self.base(made)], rows), strict=True))


def _stored(group: RowsGroup, copies: InlineCopies) -> tuple[Node, ...]:
    """Computed nodes that others read, each once where several are views of one."""
    rounded = {own.node for own in group.roundings}
    roots = [group.root(node) for node in group.outputs if node not in rounded]
    if copies.behind:
        roots.append(group.base)
    computed = set(group.computed)
    return tuple(dict.fromkeys(node for node in roots if node in computed))


def _carrier(group: RowsGroup) -> str:
    dtypes = float_dtypes(group)
    if torch.float64 in dtypes:
        if dtypes != {torch.float64}:
            raise BackendError("triton: a kernel of rows has either float64 tensors alone or none")
        return "tl.float64"
    return "tl.float32"


def _source(group: RowsGroup, text: CastText, written: RowsText) -> KernelSource:
    name = group.group.record.name
    lines = cast_lines(text, written.write)
    nodes = tuple(node.name for node in group.computed)
    about = [f"{group.base.name}: {', '.join(group.group.record.slots)}"]
    read = sum(_bytes(group.values[node]) for node, _ in dict.fromkeys(written.loaded.values()))
    results = sum(_bytes(group.values[own]) for own in (*written.stored, *(own.node for own in group.roundings)))
    return replace(
        lines.source(name, "rows", about),
        nodes=(*nodes, *(own.node.name for own in group.roundings)),
        slots=group.group.record.slots,
        bytes=read + results,
    )


def _bytes(value: Tensor) -> int:
    return value.numel() * value.element_size()


def _behind(group: RowsGroup, roundings: Sequence[CastNode], rows: Rows, device: Device) -> _Behind:
    graph = Graph()
    new: dict[Node, Node] = {group.base: graph.placeholder(group.base.name)}
    (plan,) = {own.node.args[1] for own in roundings}
    assert isinstance(plan, Node)
    new[plan] = graph.placeholder(plan.name)
    for own in roundings:
        for node in (*own.chain, own.node):
            if node not in new:
                new[node] = graph.node_copy(node, lambda own: new[own] if own in new else group.values[own])
    graph.output(tuple(new[own.node] for own in roundings))
    inner = Group(group.group.record, GraphModule({}, graph), group.group.backward)
    built = CastTemplate().build(inner, [group.values[group.base]], rows, device)
    if isinstance(built, str):
        raise BackendError(f"triton: {built}")
    return _Behind(built, group.view(group.base, {group.root(group.base)}), tuple(own.node for own in roundings))
