"""Operations along rows with the roundings of what they give: norms, softmax, gated activations, their backwards."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from precc.backends.triton.device import Device
from precc.backends.triton.kernel_source import KernelSource
from precc.backends.triton.program import Built, Group, LiveRow, Program, Rows
from precc.backends.triton.templates.cast import CastTemplate
from precc.backends.triton.templates.cast_chain import CastNode
from precc.backends.triton.templates.cast_kernels import CastKernels, programs_of
from precc.backends.triton.templates.cast_text import CastText, cast_text
from precc.backends.triton.templates.rows_copies import InlineCopies, inline_copies, rows_text_of
from precc.backends.triton.templates.rows_group import RowsGroup, float_dtypes
from precc.backends.triton.templates.rows_text import RowsText
from precc.errors import BackendError, FormatError
from precc.fusion_group import GroupKind
from precc.rounding.tensor_ops import carrier_of

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
        group: likewise.
        text: what the lines of the first kernel read and write.
        cast: of the roundings that the first kernel does.
        inline: those.
        stored: nodes that it writes.
        behind: the program of the other roundings; None where there are none.
        later: those.
    """

    group: RowsGroup
    text: RowsText
    cast: CastKernels
    inline: tuple[CastNode, ...]
    stored: tuple[Node, ...]
    behind: Program | None
    later: tuple[CastNode, ...]

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
        own = carrier_of(torch.empty(0, dtype=value.dtype), inline[0].row if inline else None)
        text = rows_text_of(group, inline, device, len(group.placeholders) + len(stored))
        rounding = f"tl.{str(own.dtype).removeprefix('torch.')}" if inline else ""
        written = RowsText(group, carrier, rounding, stored)
        source = _source(group, text, written)
        kernels = CastKernels(text, group.shape, own, None, source, ())
        behind = _behind(group, copies.behind, rows, device) if copies.behind else None
        return cls(group, written, kernels, tuple(own for own, _ in copies.inline), stored, behind, copies.behind)

    @property
    def kernels(self) -> Sequence[KernelSource]:
        """In the order in which they run."""
        return [self.cast.cast, *(self.behind.kernels if self.behind is not None else ())]

    def __call__(self, args: Sequence[Any], rows: Rows) -> tuple[Tensor, ...]:
        """The outputs of the group."""
        made: dict[Node, Any] = dict(zip(self.group.placeholders, args, strict=True))
        device = next(own.device for own in args if isinstance(own, Tensor))
        base = torch.empty(0, dtype=self.group.values[self.group.base].dtype, device=device)
        copies = self.cast.empty(base)
        results = {node: self._empty(node, device) for node in self.stored if node not in self.text.partial}
        parts = {node: self._parts(device) for node in self.stored if node in self.text.partial}
        if self.group.values[self.group.base].numel():
            self._launch(made, base, copies, results, parts, [rows[own.row] for own in self.inline])
        made |= results
        made |= {node: own.sum(0).to(self.group.values[node].dtype) for node, own in parts.items()}
        made |= {own.node: self._shaped(own, copy) for own, copy in zip(self.inline, copies, strict=True)}
        if self.behind is not None:
            later = self.behind([self.group.from_values(self.group.base, made)], rows)
            made |= {own.node: copy for own, copy in zip(self.later, later, strict=True)}
        return tuple(self.group.from_values(node, made) for node in self.group.outputs)

    def _launch(
        self,
        made: dict[Node, Any],
        base: Tensor,
        copies: Sequence[Tensor],
        results: dict[Node, Tensor],
        parts: dict[Node, Tensor],
        live: Sequence[LiveRow],
    ) -> None:
        given = self.cast.given(base, copies, live)
        for name, (node, own) in self.text.loaded.items():
            given |= {f"{name}_ptr": self.group.from_values(node, made), **own.given}
        for node, result in results.items():
            own = self.text.written[node]
            given |= {f"{own.name}_ptr": result, **own.given}
        given |= {f"{node.name}_part_ptr": own for node, own in parts.items()}
        self.cast.launch(self.cast.cast, given)

    def _empty(self, node: Node, device: torch.device) -> Tensor:
        value = self.group.values[node]
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=device)

    def _parts(self, device: torch.device) -> Tensor:
        tile = self.cast.text.tile
        count = programs_of(self.cast.text) * (tile.rows.length // tile.step)
        dtype = torch.float64 if self.text.carrier == "tl.float64" else torch.float32
        return torch.zeros(count, self.group.shape[1], dtype=dtype, device=device)

    def _shaped(self, own: CastNode, copy: Tensor) -> Tensor:
        return copy if own.packed else copy.view(self.group.values[own.node].shape)


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
    lines = cast_text(text, written.write)
    nodes = tuple(node.name for node in group.computed)
    about = [f"{group.base.name}: {', '.join(group.group.record.slots)}"]
    read = sum(_bytes(group.values[node]) for node, _ in dict.fromkeys(written.loaded.values()))
    results = sum(_bytes(group.values[own]) for own in (*written.stored, *(own.node for own in group.roundings)))
    return KernelSource(
        name=name,
        template="rows",
        text=lines.text(name, about),
        arguments=tuple(lines.arguments),
        tile=text.tile.sizes,
        num_warps=text.tile.num_warps,
        nodes=(*nodes, *(own.node.name for own in group.roundings)),
        slots=group.group.record.slots,
        bytes=read + results,
    )


def _bytes(value: Tensor) -> int:
    return value.numel() * value.element_size()


def _behind(group: RowsGroup, roundings: Sequence[CastNode], rows: Rows, device: Device) -> Program:
    """A cast of the value that the first kernel wrote."""
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
    return built
