"""Kernels of products whose sums are rounded: the text, for an accumulator and its operands."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from precc.accumulation.accumulator import Accumulator, Order
from precc.backends.triton.device import Device
from precc.backends.triton.emit.conversions import POINTERS, to_carrier, to_dtype
from precc.backends.triton.emit.device_functions import joined
from precc.backends.triton.kernel_source import Argument, KernelSource
from precc.backends.triton.powers import power_from
from precc.backends.triton.program import LiveRow
from precc.backends.triton.templates.accumulate_operands import Operand
from precc.backends.triton.templates.accumulate_orders import MOST_LEVELS, Sum, levels_of
from precc.errors import BackendError

__all__ = [
    "SIZES",
    "Shape",
    "accumulate_source",
    "accumulate_values",
    "addresses",
    "check_depth",
    "grid_of_programs",
    "loaded",
    "module_text",
    "placed",
    "sums_of_thread",
    "tile_for",
    "warps_of",
]

#: What a kernel is told of a `Shape`.
SIZES = ("items", "lefts", "rows", "columns", "depth")
#: Of a pairwise sum, that one thread keeps in registers.
_PARTIAL_SUMS = 24


@dataclass(frozen=True, slots=True)
class Shape:
    """Of products: [A, M, K] with [B, K, N], item i of B with ``i % A``."""

    items: int
    lefts: int
    rows: int
    columns: int
    depth: int

    @property
    def outputs(self) -> int:
        """How many sums there are."""
        return self.items * self.rows * self.columns


def check_depth(accumulator: Accumulator, depth: int) -> None:
    """Refuse sums that no kernel finds.

    Raises:
        BackendError: a pairwise sum of too many terms.
    """
    if accumulator.order is Order.PAIRWISE and levels_of(depth) > MOST_LEVELS:
        raise BackendError(
            f"triton: no kernel sums {depth} terms pairwise, as in {accumulator}: at most {2 ** (MOST_LEVELS + 1) - 1}"
        )


def tile_for(shape: Shape, device: Device, most: int) -> dict[str, int]:
    """Sizes of the block of sums of one program: items, rows and columns, powers of two; on a GPU at most so many."""
    rows, columns = (power_from(size) for size in (shape.rows, shape.columns))
    if device.interpreted:
        rows, columns = min(rows, 512), min(columns, 512)
        items = min(power_from(shape.items), max(1, (1 << 17) // (rows * columns)))
        return {"ITEMS": items, "ROWS": rows, "COLUMNS": columns}
    columns = min(columns, 32)
    rows = min(rows, most // columns)
    items = min(power_from(shape.items), most // (rows * columns))
    return {"ITEMS": items, "ROWS": rows, "COLUMNS": columns}


def warps_of(accumulator: Accumulator) -> int:
    """Warps of a program: with others ptxas was seen to spill rather than to take more registers."""
    if accumulator.order is Order.PAIRWISE:
        return 8
    return 1 if _is_aligned(accumulator) else 4


def _is_aligned(accumulator: Accumulator) -> bool:
    return Order.ALIGNED in (accumulator.order, (accumulator.inner or accumulator).order)


def sums_of_thread(accumulator: Accumulator, levels: int) -> int:
    """Sums that one thread of a program has: so many that their registers, two each, do not spill."""
    if accumulator.order is Order.PAIRWISE:
        return max(1, 1 << (_PARTIAL_SUMS // (levels + 1)).bit_length() >> 1)
    if _is_aligned(accumulator):
        return 1
    simple = accumulator.order is Order.SEQUENTIAL and not accumulator.compensated
    return (8 if simple else 4) >> accumulator.is_stochastic


def grid_of_programs(shape: Shape, tile: dict[str, int]) -> tuple[int]:
    """How many programs a product takes."""
    sizes = ((shape.items, "ITEMS"), (shape.rows, "ROWS"), (shape.columns, "COLUMNS"))
    total = 1
    for size, name in sizes:
        total *= -(-size // tile[name])
    return (total,)


def accumulate_source(
    accumulator: Accumulator,
    a: Operand,
    b: Operand,
    shape: Shape,
    device: Device,
    *,
    first: int = 0,
    bias: bool = False,
    selected: bool = False,
    nodes: tuple[str, ...] = (),
    slots: tuple[str, ...] = (),
) -> KernelSource:
    """The kernel of one product, ``precc.accumulation.tensor_ops.accumulate_tensor_ops`` bit for bit.

    The sum is converted to the dtype of `a` (float64, or by way of float32), and a bias added in that dtype. At run
    time it is given the arguments of `a` and `b` (`Operand.arguments`), ``c_ptr``, which is contiguous, those of the
    bias (the tensor, its strides along items, rows and columns) or of the selection (bool, contiguous), and
    `accumulate_values`.

    Args:
        accumulator: how the sum is rounded.
        a: [A, M, K]; its strides, and indices of random bits, in this order.
        b: [B, K, N].
        shape: the sizes; what the text depends on of them is whether random bits have numbers beyond 2**32, and of a
            pairwise sum the number of levels.
        device: for the tile.
        first: number of the first output, among those that random bits are drawn for.
        bias: whether one is added.
        selected: whether only some outputs count: programs without any sum nothing.
        nodes: as in `KernelSource`.
        slots: likewise.

    Raises:
        BackendError: a pairwise sum of too many terms.
    """
    check_depth(accumulator, shape.depth)
    wide = accumulator.is_stochastic and (first + shape.outputs) * shape.depth > 1 << 32
    levels = levels_of(shape.depth) if accumulator.order is Order.PAIRWISE else 0
    text, arguments = _text(accumulator, a, b, wide, levels, bias, selected)
    return KernelSource(
        name=_name(accumulator),
        template="accumulate",
        text=text,
        arguments=arguments,
        tile=tile_for(shape, device, 32 * warps_of(accumulator) * sums_of_thread(accumulator, levels_of(shape.depth))),
        num_warps=warps_of(accumulator),
        num_stages=1,
        nodes=nodes,
        slots=slots,
        bytes=(shape.lefts * shape.rows * shape.depth + shape.outputs) * a.dtype.itemsize
        + shape.items * shape.depth * shape.columns * b.dtype.itemsize,
        flops=2 * shape.outputs * shape.depth,
    )


def accumulate_values(
    accumulator: Accumulator, shape: Shape, live: LiveRow, device: torch.device, first: int = 0
) -> tuple[Tensor | int, ...]:
    """The last arguments of a kernel: sizes, number of the first output, and the numbers of the sum's row, if any."""
    sizes = tuple(getattr(shape, name) for name in SIZES)
    return (*sizes, first, *(live.on(device) for _ in Sum(accumulator, False, 0).arguments))


def _name(accumulator: Accumulator) -> str:
    parts = ["accumulate", accumulator.format.name, accumulator.order.value]
    return "".join(letter if letter.isalnum() else "_" for letter in "_".join(parts))


@lru_cache(maxsize=512)
def _text(
    accumulator: Accumulator, a: Operand, b: Operand, wide: bool, levels: int, bias: bool, selected: bool
) -> tuple[str, tuple[Argument, ...]]:
    """The module, and what the kernel is given."""
    own = Sum(accumulator, wide, levels)
    behind = [Argument(f"bias_{part}", "i64") for part in ("item", "row", "column")]
    arguments = (
        *a.arguments("a"),
        *b.arguments("b"),
        Argument("c_ptr", POINTERS[a.dtype]),
        *([Argument("bias_ptr", POINTERS[a.dtype]), *behind] if bias else []),
        *([Argument("selected_ptr", "*i1")] if selected else []),
        *(Argument(name, "i32") for name in SIZES),
        Argument("first_output", "i64"),
        *own.arguments,
    )
    body = [
        f"# c = a b, each sum in {accumulator}",
        *placed(),
        *addresses(a, b),
        *(_selection() if selected else []),
        *own.before,
        *own.lines(lambda k: loaded(a, b, k)),
        *_stored(a.dtype, bias),
    ]
    functions = joined(a.functions, b.functions, own.functions, *_of_store(a.dtype, bias))
    return module_text(_name(accumulator), functions, arguments, body), arguments


def module_text(name: str, functions: str, arguments: Sequence[Argument], body: Sequence[str]) -> str:
    """A module with one kernel over items, rows and columns."""
    constants = "ITEMS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr"
    names = ", ".join([*(own.name for own in arguments), constants])
    lines = "".join(f"    {line}\n" for line in body)
    before = f"{functions}\n\n" if functions else ""
    return f"import triton\nimport triton.language as tl\n\n\n{before}@triton.jit\ndef {name}({names}):\n{lines}"


def placed() -> list[str]:
    """Lines for where the block of sums lies."""
    return [
        "tile = tl.program_id(0)",
        "column_tiles = tl.cdiv(columns, COLUMNS)",
        "row_tiles = tl.cdiv(rows, ROWS)",
        "column = (tile % column_tiles * COLUMNS + tl.arange(0, COLUMNS))[None, None, :]",
        "row = (tile // column_tiles % row_tiles * ROWS + tl.arange(0, ROWS))[None, :, None]",
        "item = (tile // (column_tiles * row_tiles) * ITEMS + tl.arange(0, ITEMS))[:, None, None]",
        "of_a = (item < items) & (row < rows)",
        "of_b = (item < items) & (column < columns)",
        "inside = of_a & (column < columns)",
        "place = (item.to(tl.int64) * rows + row) * columns + column",
        "outputs = (place + first_output) * depth",
    ]


def addresses(a: Operand, b: Operand, suffix: str = "") -> list[str]:
    """Lines for addresses of the first terms of `a` and `b`, whose arguments have names that end so."""
    left, right = f"a{suffix}", f"b{suffix}"
    of_row, of_column = (
        a.place(left, "outer", "row", "row < rows"),
        b.place(right, "inner", "column", "column < columns"),
    )
    return [
        f"{left}_rows = {left}_ptr + {a.place(left, 'item', '(item % lefts)')} + {of_row}",
        f"{right}_items = {b.place(right, 'item', 'item', 'item < items')}",
        f"{right}_columns = {right}_ptr + {right}_items + {of_column}",
        *a.before(left),
        *b.before(right),
    ]


def _selection() -> list[str]:
    return [
        "wanted = tl.load(selected_ptr + place, mask=inside, other=0)",
        "depth = tl.where(tl.max(wanted.to(tl.int32)) > 0, depth, 0)",
    ]


def loaded(a: Operand, b: Operand, k: str, suffix: str = "") -> list[str]:
    """Lines for the blocks `a` and `b` of term k."""
    wide, of_item, of_right = f"tl.cast({k}, tl.int64)", "(item % lefts).to(tl.int64)", "item.to(tl.int64)"
    left, right = f"a{suffix}", f"b{suffix}"
    a_index = f"({of_item} * depth + {k}) * rows + row" if a.transposed else f"({of_item} * rows + row) * depth + {k}"
    b_index = f"({of_right} * columns + column) * depth + {k}"
    if not b.transposed:
        b_index = f"({of_right} * depth + {k}) * columns + column"
    b_step = f"tl.load({right}_outer + {k})" if b.gathered else f"{wide} * {right}_outer"
    return [
        *a.loaded(left, f"{left}_rows + {wide} * {left}_inner", "of_a", a_index),
        *b.loaded(right, f"{right}_columns + {b_step}", "of_b", b_index),
        *([f"a = {left}", f"b = {right}"] if suffix else []),
    ]


def _of_store(dtype: torch.dtype, bias: bool) -> list[str]:
    texts = [to_dtype("tl.float64", dtype).functions]
    if bias and dtype not in (torch.float64, torch.float32):
        texts += [to_carrier(dtype, "tl.float32").functions, to_dtype("tl.float32", dtype).functions]
    return [text for text in texts if text]


def _stored(dtype: torch.dtype, bias: bool) -> list[str]:
    """Lines that convert the sums, add a bias, and store."""
    lines = [f"c = {to_dtype('tl.float64', dtype).of('total')}"]
    if bias:
        address = "bias_ptr + item.to(tl.int64) * bias_item + row.to(tl.int64) * bias_row"
        lines.append(f"bias = tl.load({address} + column.to(tl.int64) * bias_column, mask=inside, other=0.0)")
        carrier = "tl.float64" if dtype is torch.float64 else "tl.float32"
        read = to_carrier(dtype, carrier)
        sums = f"({read.of('c')} + {read.of('bias')})"
        lines.append(f"c = {to_dtype(carrier, dtype).of(sums)}")
    return [*lines, "tl.store(c_ptr + place, c, mask=inside)"]
