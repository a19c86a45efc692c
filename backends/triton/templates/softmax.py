"""The softmax along rows in two passes, without one that finds maxima: `precc.exp_pairs` as a kernel."""

from functools import cache

import torch
from torch import Tensor

from precc.backends.triton.device import Device
from precc.backends.triton.emit.conversions import POINTERS, to_carrier, to_dtype
from precc.backends.triton.emit.device_functions import JIT, joined
from precc.backends.triton.kernel_source import Argument, KernelSource
from precc.backends.triton.load import launch
from precc.backends.triton.powers import power_from
from precc.exp_pairs import COEFFICIENTS, HALF_LN2, LEAST, LN2_HIGH, LN2_LOW, LOG2_E

__all__ = ["PAIR_FUNCTIONS", "SOFTMAX_FUNCTION", "softmax_rows", "softmax_source"]

#: The most lanes of a row that a program sums at a time.
_LANES = 1024
_HORNER = "\n".join(f"    m = m * t + {coefficient!r}" for coefficient in COEFFICIENTS[-2::-1])

#: ``exp_pair(x)``: significand (float32) and exponent (float64) of ``e**x`` for a block of float32 values;
#: ``pair_value(m, steps)``: ``m 2**steps`` as float32 for whole steps of float64, none above 0.
PAIR_FUNCTIONS = f"""{JIT}def exp_pair(x):
    # e**x = m 2**n: n = round(x log2 e), t = x - n ln 2, m = e**t by a polynomial; -inf has m = 0, inf and NaN have NaN
    wide = x.to(tl.float64)
    n = tl.floor(wide * {LOG2_E!r} + 0.5)
    t = ((wide - n * {LN2_HIGH!r}) - n * {LN2_LOW!r}).to(tl.float32)
    t = tl.where(t > {HALF_LN2!r}, {HALF_LN2!r}, tl.where(t < -{HALF_LN2!r}, -{HALF_LN2!r}, t))
    m = tl.zeros_like(t) + {COEFFICIENTS[-1]!r}
{_HORNER}
    finite = x - x == 0.0
    zero = x == float("-inf")
    m = tl.where(finite, m, tl.where(zero, 0.0, float("nan")))
    return m, tl.where(zero, {LEAST!r}, tl.where(finite, n, 0.0))


{JIT}def two_to(exponent):
    return ((exponent.to(tl.int64) + 1023) << 52).to(tl.float64, bitcast=True)


{JIT}def pair_value(m, steps):
    # in two factors, each a normal number
    steps = tl.where(steps < -252.0, -252.0, steps)
    half = tl.floor(steps * 0.5)
    return (m * two_to(half).to(tl.float32)) * two_to(steps - half).to(tl.float32)


{JIT}def scaled_sum(m, steps):
    # m 2**steps, of float64
    return m * two_to(tl.where(steps < -1000.0, -1000.0, steps))
"""

#: ``softmax(x)`` of a block [rows, columns] of float32 with whole rows; what is no column is -inf.
SOFTMAX_FUNCTION = (
    PAIR_FUNCTIONS
    + f"""

{JIT}def softmax(x):
    m, n = exp_pair(x)
    largest = tl.max(n, axis=1, keep_dims=True)
    total = tl.sum(scaled_sum(m.to(tl.float64), n - largest), axis=1, keep_dims=True)
    return pair_value((m.to(tl.float64) * (1.0 / total)).to(tl.float32), n - largest)
"""
)


def softmax_source(dtype: torch.dtype, columns: int, device: Device) -> KernelSource:
    """The kernel ``y = softmax(x)`` of contiguous rows of any length: two reads, one write.

    Args:
        dtype: of x and y: float32, bfloat16 or float16.
        columns: length of a row.
        device: for the tile.
    """
    lanes = min(power_from(columns), 1 << 14 if device.interpreted else _LANES)
    rows = max(1, (1 << 16 if device.interpreted else _LANES) // lanes)
    text, name = _text(dtype)
    return KernelSource(
        name=name,
        template="softmax",
        text=text,
        arguments=(
            Argument("x_ptr", POINTERS[dtype]),
            Argument("y_ptr", POINTERS[dtype]),
            Argument("rows", "i32"),
            Argument("columns", "i32"),
        ),
        tile={"ROWS": rows, "COLUMNS": lanes},
        num_warps=4,
        num_stages=1,
    )


def softmax_rows(x: Tensor, device: Device) -> Tensor:
    """The softmax of the rows of a contiguous [rows, columns] tensor, by the kernel."""
    rows, columns = x.shape
    y = torch.empty_like(x)
    if x.numel():
        source = softmax_source(x.dtype, columns, device)
        launch(source, (-(-rows // source.tile["ROWS"]),), (x, y, rows, columns))
    return y


@cache
def _text(dtype: torch.dtype) -> tuple[str, str]:
    read, write = to_carrier(dtype, "tl.float32"), to_dtype("tl.float32", dtype)
    name = f"softmax_two_pass_{str(dtype).removeprefix('torch.')}"
    functions = joined(read.functions, write.functions, PAIR_FUNCTIONS)
    load = [
        "column = start + tl.arange(0, COLUMNS)[None, :]",
        "inside = (row < rows) & (column < columns)",
        'x = tl.load(x_ptr + place + column, mask=inside, other=float("-inf"))',
        f"m, n = exp_pair({read.of('x')})",
    ]
    body = [
        "# y = e**x / sum e**x along each row; the sum of pairs m 2**n in float64, each lane first, then all lanes",
        "row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS))[:, None]",
        "place = row.to(tl.int64) * columns",
        "total = tl.zeros((ROWS, COLUMNS), tl.float64)",
        f"largest = tl.full((ROWS, COLUMNS), {LEAST!r}, tl.float64)",
        "for start in range(0, columns, COLUMNS):",
        *(f"    {line}" for line in load),
        "    following = tl.where(n > largest, n, largest)",
        "    total = scaled_sum(total, largest - following) + scaled_sum(m.to(tl.float64), n - following)",
        "    largest = following",
        "of_row = tl.max(largest, axis=1, keep_dims=True)",
        "of_lanes = tl.sum(scaled_sum(total, largest - of_row), axis=1, keep_dims=True)",
        "inverse = 1.0 / of_lanes",
        "for start in range(0, columns, COLUMNS):",
        *(f"    {line}" for line in load),
        "    y = pair_value((m.to(tl.float64) * inverse).to(tl.float32), n - of_row)",
        f"    tl.store(y_ptr + place + column, {write.of('y')}, mask=inside)",
    ]
    lines = "".join(f"    {line}\n" for line in body)
    signature = "x_ptr, y_ptr, rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr"
    before = f"import triton\nimport triton.language as tl\n\n\n{functions}\n\n"
    return f"{before}@triton.jit\ndef {name}({signature}):\n{lines}", name
