"""The codes of rounded values in packed tensors, and the text of device functions to them and back.

A code is the index of the magnitude on the grid with the sign bit right above it, for OCP and IEEE formats exactly
their bit patterns; of fixed point the multiple of the quantum in two's complement. Storage has 4, 8 or 16 bits; values
of wider formats are stored as the carrier's own bits. A NaN is all ones of the storage but its highest bit, where no
value has that code.
"""

import math
from dataclasses import dataclass

import torch

from precc.backends.triton.emit.device_functions import JIT, TYPES, Types, literal, named_after
from precc.packing.codes import Codes, codes_of
from precc.rounding import Row
from precc.rounding.row import Grid
from precc.rounding.tensor_ops import carrier_of_dtype

__all__ = ["CodeText", "code_text"]


@dataclass(frozen=True, slots=True)
class CodeText:
    """Device functions between unscaled rounded values and codes.

    Args:
        codes: what they are; a NaN that has none becomes some other.
        encode: expression, with ``{}`` for a block of values of the carrier; gives integers of 32 or 64 bits.
        decode: expression, with ``{}`` for a block of codes as integers without sign; gives values of the carrier.
        encoder: text of what encodes.
        decoder: text of what decodes.
    """

    codes: Codes
    encode: str
    decode: str
    encoder: str = ""
    decoder: str = ""


def code_text(row: Row, dtype: torch.dtype) -> CodeText:
    """The codes of the elements of a row, of tensors of a dtype."""
    types = TYPES[carrier_of_dtype(dtype, row).dtype]
    codes = codes_of(row, dtype)
    if codes.grid is None:
        encode = f"{{}}.to({types.integer}, bitcast=True)"
        return CodeText(codes, encode, f"{{}}.to({types.integer}).to({types.float}, bitcast=True)")
    return _fixed(codes, codes.grid, types) if codes.fixed else _float(codes, codes.grid, types)


def _fixed(codes: Codes, grid: Grid, types: Types) -> CodeText:
    storage, nan, holds_nan = codes.storage, codes.nan, codes.holds_nan
    ones, sign = (1 << storage) - 1, 1 << (storage - 1)
    encode = [
        f"# x / 2**{grid.k_min} in two's complement of {storage} bits",
        f"code = tl.where(x == x, {_times('x', -grid.k_min)}, 0.0).to(tl.int32)",
        *([f"code = tl.where(x == x, code, 0x{nan:X})"] if holds_nan else []),
        f"return code & 0x{ones:X}",
    ]
    decode = [
        f"# code * 2**{grid.k_min}, of {storage} bits in two's complement",
        f"code = ((code.to(tl.int32) & 0x{ones:X}) ^ 0x{sign:X}) - 0x{sign:X}",
        f"x = {_times(f'code.to({types.float})', grid.k_min)}",
        *([f'x = tl.where(code == 0x{nan:X}, float("nan"), x)'] if holds_nan else []),
        "return x",
    ]
    return _made(f"fixed{storage}_k{grid.k_min}", codes, encode, decode)


def _float(codes: Codes, grid: Grid, types: Types) -> CodeText:
    largest, signed, sign, nan, holds_nan = codes.largest, codes.signed, codes.sign, codes.nan, codes.holds_nan
    m, dropped = grid.mantissa_bits, types.mantissa_bits - grid.mantissa_bits
    offset = ((grid.emin + types.bias) << m) - (1 << (grid.emin - grid.k_min))
    normal, infinite = literal(2.0**grid.emin), math.isinf(grid.above)
    encode = [
        f"# sign, and the index on the grid: |x| / 2**{grid.k_min} below 2**{grid.emin}, above it the upper bits",
        f"bits = x.to({types.integer}, bitcast=True)",
        f"size = (bits & 0x{types.magnitude_mask:X}).to({types.float}, bitcast=True)",
        f"index = ((bits & 0x{types.magnitude_mask:X}) >> {dropped}) - {offset}",
        f"small = tl.where(size < {normal}, size, 0.0)",
        f"index = tl.where(size < {normal}, ({_times('small', -grid.k_min)}).to({types.integer}), index)",
        *([f'index = tl.where(size == float("inf"), 0x{largest:X}, index)'] if infinite else []),
        *([f"index = index | tl.where(bits < 0, 0x{sign:X}, 0)"] if signed else []),
        *([f"index = tl.where(x == x, index, 0x{nan:X})"] if holds_nan else []),
        "return index.to(tl.int32)",
    ]
    one = 1 << (grid.emin - grid.k_min)
    # times -1: in Triton 3.6 -x is 0 - x, which is 0 where x is
    decode = [
        f"# sign, and the value of the index: below 0x{one:X} a multiple of 2**{grid.k_min}, above it the upper bits",
        f"code = code.to({types.integer}) & 0x{(1 << codes.storage) - 1:X}",
        f"index = code & 0x{sign - 1:X}" if signed else "index = code",
        f"small = {_times(f'index.to({types.float})', grid.k_min)}",
        f"x = ((index + {offset}) << {dropped}).to({types.float}, bitcast=True)",
        f"x = tl.where(index < 0x{one:X}, small, x)",
        *([f'x = tl.where(index == 0x{largest:X}, float("inf"), x)'] if infinite else []),
        *([f"x = tl.where(code >= 0x{sign:X}, x * -1.0, x)"] if signed else []),
        *([f'x = tl.where(code == 0x{nan:X}, float("nan"), x)'] if holds_nan else []),
        "return x",
    ]
    return _made(f"m{m}_k{grid.k_min}", codes, encode, decode)


def _times(x: str, exponent: int) -> str:
    """By a power of two, in two factors where float32 does not hold it."""
    if -126 <= exponent <= 127:
        return f"{x} * {literal(2.0**exponent)}"
    half = exponent // 2
    return f"({x} * {literal(2.0**half)}) * {literal(2.0 ** (exponent - half))}"


def _made(kind: str, codes: Codes, encode: list[str], decode: list[str]) -> CodeText:
    bodies = ["".join(f"    {line}\n" for line in lines) for lines in (encode, decode)]
    to_code, from_code = (
        named_after(f"{verb}_{kind}", body) for verb, body in zip(("encoded", "decoded"), bodies, strict=True)
    )
    texts = (f"{JIT}def {to_code}(x):\n{bodies[0]}", f"{JIT}def {from_code}(code):\n{bodies[1]}")
    return CodeText(codes, f"{to_code}({{}})", f"{from_code}({{}})", *texts)
