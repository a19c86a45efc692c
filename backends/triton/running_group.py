"""A group of a graph as it runs: by the program for the formats of the live plan, or, without one, node by node."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from precc.amax_history import record_amax
from precc.backends.triton.cast_cache import CastCache
from precc.backends.triton.device import Device
from precc.backends.triton.kernel_source import KernelSource
from precc.backends.triton.live_plan import LivePlan, is_capturing
from precc.backends.triton.live_rows import PlanRows, RowsRead, plan_of, row_number, rows_read
from precc.backends.triton.load import compiling, source_path, variant_of
from precc.backends.triton.program import Built, Group, Program, Rows, Template
from precc.backends.triton.templates.group_values import placeholders_of
from precc.fusion_group import GroupKind
from precc.kernel_listing import KernelListing, ListedKernel, Remaining
from precc.packing import PACK, UNPACK, PackedLayout
from precc.round_op import ROUND

__all__ = ["RunningGroup"]

#: Programs that one group keeps; a controller switches between a handful of formats.
_KEPT = 256

#: What tells programs apart beside formats: shapes, strides and dtypes of tensors, and numbers.
_Sizes = tuple[object, ...]


@dataclass(eq=False)
class RunningGroup:
    """A group and its programs, one for each set of formats and sizes: another plan is a look into a dictionary.

    Args:
        group: what it computes.
        template: makes its programs; None where no template is for its kind.
        device: that it runs on.
        live: the plan of its graph.
        by_nodes: the group's module with precc's operators in it, for what has no program.
        runs: whether programs run, or are only built, and all is computed node by node.
    """

    group: Group
    template: Template | None
    device: Device
    live: LivePlan
    by_nodes: GraphModule
    runs: bool = True
    read: RowsRead = field(init=False)
    _plan_place: int | None = field(init=False)
    _own: list[Node] = field(init=False)  # placeholders but the plan's
    _are_tensors: list[bool] = field(init=False)
    _rounding: tuple[int, ...] = field(init=False)  # rows by which nodes round
    _packed: frozenset[int] = field(init=False)  # whose sizes depend on the plan
    _programs: dict[tuple[object, ...], Built] = field(default_factory=dict)
    _sizes: dict[_Sizes, list[Any]] = field(default_factory=dict)  # as those that were seen, without data
    _last: tuple[Rows, PlanRows] | None = None
    _was_captured: bool = False
    _current: Built = "it has not run yet"
    casts: CastCache = field(default_factory=CastCache)

    def __post_init__(self) -> None:
        self.read = rows_read(self.group.module)
        self._plan_place = _plan_place(self.group.module)
        self._own = placeholders_of(self.group.module)
        self._packed = frozenset(
            n for n, node in enumerate(self._own) if any(user.target is UNPACK for user in node.users)
        )
        rounds = (node for node in self.group.module.graph.nodes if node.target in (ROUND, PACK))
        self._rounding = tuple(dict.fromkeys(map(row_number, rounds)))
        values = [node.meta.get("val") for node in self.group.module.graph.find_nodes(op="placeholder")]
        self._are_tensors = [isinstance(own, Tensor) for n, own in enumerate(values) if n != self._plan_place]

    def __call__(self, args: Sequence[Any], plan: Tensor) -> list[Tensor]:
        """The outputs for these values of the placeholders, but for the plan's."""
        device = next((own.device for own in args if isinstance(own, Tensor)), plan.device)
        rows = self._rows_among(self.live.rows(plan, device))
        self._current = built = self._program(args, rows)
        if isinstance(built, str) or not self.runs:
            return list(self.by_nodes(*self.with_plan(args, plan)))
        if rows.content is not None and self._is_fixed and self._may_keep(args[0]):
            return list(self.casts.copies(args[0], rows, lambda: tuple(built(args, rows.rows))))
        results = list(built(args, rows.rows))
        self._record(rows.rows)
        return results

    def _record(self, rows: Rows) -> None:
        """Have the histories take the largest magnitudes that kernels found."""
        for number in self._rounding:
            live = rows[number]
            if live.record is not None and live.amax is not None:
                record_amax(live.amax.view(torch.float64)[0].clone(), *live.record, number)
                live.amax.zero_()  # the next run under this plan, a second backward, may find a NaN

    @property
    def built(self) -> Built:
        """The program of the last run, or why there is none."""
        return self._current

    @property
    def _is_fixed(self) -> bool:
        """Whether all that it does is to round one parameter."""
        record = self.group.record
        return record.kind is GroupKind.CAST and len(self._are_tensors) == 1 and bool(record.parameters)

    def _may_keep(self, parameter: Tensor) -> bool:
        """Not once a CUDA graph has it, which may write the parameter without Python's knowing."""
        self._was_captured |= is_capturing(parameter.device)
        return not self._was_captured and not parameter.is_inference()  # whose writes are not counted

    def prepare(self, live: Rows) -> None:
        """Have the programs for the rows of a plan, for all sizes that have been seen."""
        rows = self._rows_among(live)
        for sizes, like in self._sizes.items():
            is_new = (rows.variant, sizes) not in self._programs
            built = self._build(sizes, like, rows)
            if is_new and self._compiles and not isinstance(built, str):
                self._compile(built, like, rows)

    @property
    def _compiles(self) -> bool:
        """Whether kernels are compiled where it runs."""
        return self.runs and not self.device.interpreted

    def _compile(self, built: Program, like: Sequence[Any], rows: PlanRows) -> None:
        """Have the kernels of a program compiled before their first launch, in the tile of the best rank."""
        packed = [_packed_like(node, rows.rows) if n in self._packed else like[n] for n, node in enumerate(self._own)]
        if all(own is not None for own in packed):
            with compiling():
                built(packed, rows.rows)

    def listing(self) -> KernelListing:
        """The kernels of the last run; or why there are none."""
        half = "backward" if self.group.backward else "forward"
        if isinstance(self._current, str):
            return KernelListing((), (Remaining(self.group.record.name, half, self._current),))
        return KernelListing(tuple(_listed(source, self.group, half) for source in self._current.kernels))

    def _rows_among(self, live: Rows) -> PlanRows:
        """Those that it reads, found once as long as the plan is the same."""
        last = self._last
        if last is None or last[0] is not live:
            self._last = last = live, PlanRows.among(self.read, live)
        return last[1]

    def _program(self, args: Sequence[Any], rows: PlanRows) -> Built:
        sizes = tuple("packed" if own in self._packed else _size_of(value) for own, value in enumerate(args))
        found = self._programs.get((rows.variant, sizes))
        if found is not None:
            return found
        like = self._sizes.setdefault(sizes, [_without_data(own) for own in args])
        return self._build(sizes, like, rows)

    def _build(self, sizes: _Sizes, like: Sequence[Any], rows: PlanRows) -> Built:
        key = (rows.variant, sizes)
        if key not in self._programs:
            if len(self._programs) >= _KEPT:
                del self._programs[next(iter(self._programs))]
            self._programs[key] = self._made(like, rows)
        return self._programs[key]

    def _made(self, like: Sequence[Any], rows: PlanRows) -> Built:
        if self.template is None:
            return f"there is no template for groups of kind {self.group.record.kind.value!r}"
        transformed = [own.row.transform for own in rows.rows.values() if own.row is not None and own.row.transform]
        if transformed:
            return f"operands are transformed before they are rounded ({transformed[0].value}), node by node"
        return self.template.build(self.group, like, rows.rows, self.device)

    def with_plan(self, args: Sequence[Any], plan: Tensor) -> list[Any]:
        """The values of all placeholders."""
        return list(args) if self._plan_place is None else [*args[: self._plan_place], plan, *args[self._plan_place :]]

    def merged(self, tensors: Sequence[Tensor], sizes: Sequence[Any]) -> list[Any]:
        """The values of the placeholders but the plan's, from those that are tensors and those that are numbers."""
        left = {True: iter(tensors), False: iter(sizes)}
        return [next(left[is_tensor]) for is_tensor in self._are_tensors]


def _plan_place(module: GraphModule) -> int | None:
    """The position of the plan among the placeholders."""
    plans = set(map(plan_of, module.graph.nodes))
    places = [n for n, node in enumerate(module.graph.find_nodes(op="placeholder")) if node in plans]
    return places[0] if places else None


def _packed_like(node: Node, rows: Rows) -> Tensor | None:
    """A packed value as it is under some rows; None where its size is known only as the graph runs."""
    _, _, number, shape, dtype, transposed = next(user for user in node.users if user.target is UNPACK).args
    row = rows[int(number)].row  # type: ignore[arg-type]
    if row is None or not all(isinstance(size, int) for size in shape):  # type: ignore[union-attr]
        return None
    layout = PackedLayout.of(row, tuple(shape), dtype, bool(transposed))  # type: ignore[arg-type]
    return torch.empty(layout.bytes, dtype=torch.uint8, device="meta")


def _size_of(value: Any) -> object:
    return (tuple(value.shape), value.stride(), value.dtype) if isinstance(value, Tensor) else value


def _without_data(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")


def _listed(made: KernelSource, group: Group, half: str) -> ListedKernel:
    source = variant_of(made).standing_for(group.record.nodes, group.record.slots)
    return ListedKernel(
        source.name,
        source.template,
        half,
        source.nodes,
        source.slots,
        source.tile,
        source.num_warps,
        source.num_stages,
        source.bytes,
        source.flops,
        source.text,
        Path(source_path(source)),
    )
