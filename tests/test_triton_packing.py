"""Packed copies by generated kernels: codes are those of the formats, and stand for what `quantize` gives."""

import math
from functools import cache

import pytest
import torch
from torch import Tensor
from torch.fx import Graph, Node

from precc.backends.triton.alike_rows import alike
from precc.backends.triton.device import INTERPRETER
from precc.backends.triton.emit.codes import code_text
from precc.backends.triton.emit.device_functions import joined
from precc.backends.triton.kernel_source import Argument, KernelSource
from precc.backends.triton.load import launch
from precc.backends.triton.templates.cast_copies import Copy
from precc.backends.triton.templates.cast_kernels import kernels_of
from precc.formats import FORMATS, BlockFormat, FixedPoint, FloatFormat, Format, Scaling, parse_format
from precc.packing import PACK, PackedLayout
from precc.packing.layout import scale_counts
from precc.precision import Precision
from precc.rounding import Row, quantize, row_of
from precc.rounding.scales import block_shape, spread_scales
from precc.rounding.tensor_ops import carrier_of_dtype, nested_grid
from tests.test_rounding import named
from tests.triton_casts import built, live, pack_op, same_bits

FAMILIES = "nested8.4 power4_0.5 e8m7 fixed20.10 fixed8.4 int2 binary8p3 e3m3 bfp8.16 dfp8"
PACKED = [*FORMATS.values(), *map(parse_format, FAMILIES.split())]
OF_OCP_AND_IEEE = ["e4m3", "e5m2", "e2m1", "e3m2", "e2m3", "bf16", "fp16", "e3m4"]


def value_of(code: int, row: Row, storage: int, holds_nan: bool) -> float:
    """The value of a code, in exact arithmetic."""
    grid = nested_grid(row) if row.shift else row.grid
    top = 1 << (storage - 1)
    if holds_nan and code == top - 1:
        return math.nan
    if grid.emin > 2000:  # fixed point
        return math.ldexp((code ^ top) - top, grid.k_min)
    sign = 1 << largest_index(row).bit_length() if grid.low < 0 else 1 << storage
    value = value_of_index(code % sign, row)
    return (-1.0 if code & sign else 1.0) * value


@cache
def largest_index(row: Row) -> int:
    """Of the largest value, or of infinity."""
    low, high = 0, 1 << 16
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if value_of_index(middle, row) >= row.grid.high else (middle + 1, high)
    return low + math.isinf(row.grid.above)


def value_of_index(index: int, row: Row) -> float:
    """The magnitude of an index on a grid of floats."""
    grid = row.grid
    m = grid.mantissa_bits
    one = 1 << (grid.emin - grid.k_min)
    if index < one:
        return math.ldexp(index, grid.k_min)
    octave, fraction = divmod(index - one, 1 << m)
    if grid.emin + octave > 1023:
        return math.inf
    value = math.ldexp((1 << m) + fraction, grid.emin + octave - m)
    return math.inf if value > grid.high and math.isinf(grid.above) else value


def codes_of(packed: Tensor, row: Row, shape: tuple[int, ...], dtype: torch.dtype, transposed: bool) -> Tensor:
    """The unsigned codes of a packed tensor, in the shape of what was packed."""
    layout = PackedLayout.of(row, shape, dtype, transposed)
    payload = packed[: layout.code_bytes]
    if layout.storage == 4:
        codes = torch.stack([payload & 15, payload >> 4], -1).flatten().long()
    else:
        integer = {8: torch.uint8, 16: torch.int16, 32: torch.int32, 64: torch.int64}[layout.storage]
        codes = payload.view(integer).long()
        codes = codes & ((1 << layout.storage) - 1) if layout.storage < 64 else codes
    stored = (*shape[:-2], shape[-1], shape[-2]) if transposed else shape
    codes = codes.reshape(stored)
    return codes.mT if transposed else codes


def unpacked(packed: Tensor, row: Row, shape: tuple[int, ...], dtype: torch.dtype, transposed: bool) -> Tensor:
    """The values that a packed tensor stands for, by tables of codes."""
    layout = PackedLayout.of(row, shape, dtype, transposed)
    codes = codes_of(packed, row, shape, dtype, transposed)
    if row.is_identity(dtype):
        return codes.to({2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]).view(dtype)
    carrier = carrier_of_dtype(dtype, row)
    text = code_text(row, dtype)
    if text.codes.storage > 16:
        values = codes.to(carrier.integer).view(carrier.dtype)
    else:
        found, places = codes.unique(return_inverse=True)
        table = [value_of(code, row, text.codes.storage, text.codes.holds_nan) for code in found.tolist()]
        values = torch.tensor(table, dtype=torch.float64).to(carrier.dtype)[places]
    scales = packed[layout.scale_offset :].view(carrier.dtype)
    if row.finds_scales:
        scales = spread_scales(scales.reshape(scale_counts(shape, row)), block_shape(shape, row), shape)
    elif row.granularity is not None:
        scales = values.new_tensor(row.scale.value) * (scales if layout.scale_count else 1)
    return (values * scales if row.granularity is not None or layout.scale_count else values).to(dtype)


def both(graph: Graph, x: Node, plan: Node) -> list[Node]:
    return [graph.call_function(pack_op(), (x, plan, 0, transposed)) for transposed in (False, True)]


def values_to_pack(dtype: torch.dtype) -> Tensor:
    x = torch.randn(22, 34, dtype=torch.float64) * torch.exp2(torch.randint(-9, 9, (22, 34)).double())
    x[1], x[2] = 0.0, -0.0
    x[3] *= 1e-38
    return x.to(dtype)


def check(x: Tensor, row: Row) -> None:
    wanted = quantize(x, row)
    for transposed, packed in enumerate(built(both, x, row)([x], live(row))):
        assert packed.dtype is torch.uint8
        ours = unpacked(packed, row, tuple(x.shape), x.dtype, bool(transposed))
        assert same_bits(ours, wanted.contiguous()), (row.grid, transposed)


@pytest.mark.parametrize("fmt", PACKED, ids=named)
def test_what_is_packed_stands_for_what_is_rounded(fmt: Format) -> None:
    check(values_to_pack(torch.bfloat16), row_of(fmt))


@pytest.mark.slow
@pytest.mark.parametrize("fmt", PACKED, ids=named)
def test_so_it_does_of_other_dtypes_and_strides(fmt: Format) -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        check(values_to_pack(dtype), row_of(fmt))
        check(values_to_pack(dtype).t()[:, :21], row_of(fmt))


@pytest.mark.parametrize("name", ["e4m3", "e2m1", "int8", "int4", "e5m2"])
def test_every_scaling(name: str) -> None:
    x = values_to_pack(torch.float32)
    x[4, 3], x[5, 5] = torch.nan, torch.inf
    scalings = [Scaling("static", value=0.3), Scaling("tensor"), Scaling("row"), Scaling("block", size=16)]
    scalings += [Scaling("channel", axis=0), Scaling("tile", size=(4, 8)), Scaling("block", size=24, axis=0)]
    for scaling in scalings:
        row = row_of(parse_format(name), scaling=scaling)
        if scaling.granularity.value == "static" and not code_text(row, torch.float32).codes.holds_nan:
            continue
        check(x, row)


def test_a_format_without_a_code_for_nan_says_that_there_is_one_for_all() -> None:
    row = row_of(parse_format("int8"))
    x = torch.tensor([[1.0, -7.0], [torch.nan, 3.0]])
    for packed in built(both, x, row)([x], live(row)):
        assert unpacked(packed, row, (2, 2), torch.float32, False).isnan().all()
    check(torch.nan_to_num(x), row)


@pytest.mark.parametrize("name", OF_OCP_AND_IEEE)
def test_codes_are_the_bit_patterns_of_the_formats(name: str) -> None:
    fmt = parse_format(name)
    assert isinstance(fmt, FloatFormat)
    row = row_of(fmt)
    patterns = [fmt.decode(code) for code in range(2**fmt.bits)]
    x = torch.tensor(patterns, dtype=torch.float64).reshape(-1, 4)
    (packed, _) = built(both, x, row)([x], live(row))
    codes = codes_of(packed, row, tuple(x.shape), x.dtype, False).flatten().tolist()
    for code, value, pattern in zip(codes, patterns, range(2**fmt.bits), strict=True):
        assert math.isnan(value) or code == pattern


@pytest.mark.parametrize("name", [*OF_OCP_AND_IEEE, "int8", "int16", "fixed8.4", "e8m7", "e8m0", "ue5m3"])
def test_what_decodes_undoes_what_encodes(name: str) -> None:
    for dtype in (torch.float32, torch.float64):
        row = row_of(parse_format(name))
        text = code_text(row, dtype)
        carrier = carrier_of_dtype(dtype, row)
        pointer = "*fp32" if carrier.dtype is torch.float32 else "*fp64"
        x = quantize(torch.arange(-(2**15), 2**15).to(torch.int16).view(torch.bfloat16).to(carrier.dtype), row)
        x = x if text.codes.holds_nan else x.nan_to_num(1.0)
        module = f"""import triton
import triton.language as tl


{joined(text.encoder, text.decoder)}

@triton.jit
def both(x_ptr, y_ptr, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)
    codes = {text.encode.format("tl.load(x_ptr + at)")}
    tl.store(y_ptr + at, {text.decode.format("codes")})
"""
        arguments = (Argument("x_ptr", pointer), Argument("y_ptr", pointer))
        back = torch.empty_like(x)
        launch(KernelSource("both", "test", module, arguments, {"SIZE": 2**16}), (1,), [x, back])
        assert same_bits(back, x), (name, dtype)


def test_nothing_is_packed_into_nothing() -> None:
    for shape in ((0, 8), (3, 0)):
        x = torch.empty(shape)
        for packed in built(both, x, row_of(parse_format("mxfp4")), device=INTERPRETER)(
            [x], live(row_of(parse_format("mxfp4")))
        ):
            assert packed.numel() == 0


def test_storage_is_the_least_that_holds_the_codes() -> None:
    rows = {name: row_of(parse_format(name)) for name in FORMATS if "x" not in name}
    bits = {name: code_text(row, torch.float32).codes.storage for name, row in rows.items()}
    assert bits["float4_e2m1fn"] == bits["int4"] == 4
    assert bits["float6_e3m2fn"] == bits["float8_e5m2"] == bits["int8"] == 8
    assert bits["bfloat16"] == bits["float16"] == bits["int16"] == 16
    assert bits["tfloat32"] == bits["float32"] == 32
    assert not any(isinstance(fmt, BlockFormat | FixedPoint) and fmt.bits < 4 for fmt in FORMATS.values())


@pytest.mark.parametrize("fmt", PACKED, ids=str)
def test_bytes_are_those_of_tensor_operations(fmt: Format) -> None:
    x = torch.randn(32, 64) * torch.exp2(torch.randint(-12, 12, (32, 64)).float())
    row = Precision(fmt).row(axis=1, channel=0)
    plan = torch.tensor([row.values], dtype=torch.float64)
    for transposed in (False, True):
        layout = PackedLayout.of(row, x.shape, x.dtype, transposed)
        copy = Copy(alike(row, x.dtype), (0, 1), True, transposed)
        (packed,) = kernels_of((32, 64), x.stride(), x.dtype, (copy,), INTERPRETER, "packed")(
            x, list(live(row).values())
        )
        wanted = PACK(x, plan, 0, transposed)
        assert packed[: layout.code_bytes].equal(wanted[: layout.code_bytes])
        assert packed[layout.scale_offset :].equal(wanted[layout.scale_offset :])
