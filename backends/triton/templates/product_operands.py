"""How a product reads an operand: rounded as it is loaded, as codes with scales, or as values that are known."""

from dataclasses import dataclass

import torch

from precc.backends.triton.emit.codes import code_text
from precc.backends.triton.emit.conversions import POINTERS, to_carrier, to_dtype
from precc.backends.triton.emit.device_functions import joined
from precc.backends.triton.emit.rounding import RoundingText, rounding_text
from precc.backends.triton.kernel_source import Argument
from precc.backends.triton.native import Arithmetic, KnownValues, fp8_of, holds_codes
from precc.backends.triton.templates.product_scales import FACTORS_APART, ScalePart, given_scale, packed_scale
from precc.errors import BackendError
from precc.packing import PackedLayout
from precc.rounding import Row

__all__ = ["OperandText", "described", "packed_operand", "value_operand"]

_WIDTHS = {Arithmetic.FP8: 1, Arithmetic.BF16: 2, Arithmetic.FP16: 2, Arithmetic.DOUBLE: 8}
_CODES = {torch.float8_e4m3fn: "*fp8e4nv", torch.float8_e5m2: "*fp8e5"}


@dataclass(frozen=True, slots=True)
class OperandText:
    """Text that loads a block of an operand, and what it must be given.

    Args:
        side: ``"a"`` or ``"b"``.
        lines: of the loop over terms, from offsets ``{side}_at``, a mask ``{side}_in`` and indices ``{side}_index``.
        functions: that they call.
        arguments: beside the sizes and strides.
        narrow: the expression of what a tensor core multiplies.
        wide: of the same values in float32.
        scale: by which sums are multiplied.
        bytes: of one value in a tensor core.
        read: bytes of one value in memory.
        before: lines before that loop.
        needs_index: whether it draws random numbers.
    """

    side: str
    lines: tuple[str, ...]
    functions: str
    arguments: tuple[Argument, ...]
    narrow: str
    wide: str
    scale: ScalePart
    bytes: float
    read: float
    before: tuple[str, ...] = ()
    needs_index: bool = False

    @property
    def converted(self) -> bool:
        """Whether what is read goes through registers before it is multiplied."""
        loads = [line for line in self.lines if not line.startswith((f"{self.side}_scale =", "#"))]
        return len(loads) > 1 or self.narrow != self.side or self.bytes != self.read


def value_operand(
    side: str, dtype: torch.dtype, row: Row | None, known: Row | None, kind: Arithmetic, many: bool = False
) -> OperandText:
    """An operand that is loaded as values, and rounded by a row if there is one; scales are none or given.

    Args:
        side: ``"a"`` or ``"b"``.
        dtype: of the tensor.
        row: by which it is rounded as it is loaded.
        known: that rounded it before.
        kind: the arithmetic of the product.
        many: whether there are more than ``2**32`` values.
    """
    if dtype not in POINTERS:
        raise BackendError(f"triton: a product takes no {dtype} operand")
    load = f"tl.load({side}_ptr + {side}_at, mask={side}_in, other=0.0)"
    pointer = Argument(f"{side}_ptr", POINTERS[dtype])
    if row is not None:
        return _rounded_operand(side, rounding_text(row, dtype, many), dtype, row, kind, pointer, load)
    if (dtype, kind) in _NATIVE:
        as_float = to_carrier(dtype, "tl.float32")
        line, functions = f"{side} = {load}", as_float.functions
        return OperandText(side, (line,), functions, (pointer,), side, as_float.of(side), ScalePart(), 2, 2)
    carrier = _carrier(kind)
    conversion = to_carrier(dtype, carrier)
    narrow = _narrow(side, kind, known)
    lines = (f"{side} = {conversion.of(load)}",)
    size = _WIDTHS.get(kind, 4)
    return OperandText(side, lines, conversion.functions, (pointer,), narrow, side, ScalePart(), size, dtype.itemsize)


_NATIVE = {(torch.bfloat16, Arithmetic.BF16), (torch.float16, Arithmetic.FP16)}


def _rounded_operand(
    side: str, rounding: RoundingText, dtype: torch.dtype, row: Row, kind: Arithmetic, pointer: Argument, load: str
) -> OperandText:
    own, carrier = rounding.carrier, _carrier(kind)
    conversion, functions = to_carrier(dtype, own), [rounding.functions]
    lines, arguments = [f"{side} = {conversion.of(load)}"], [pointer]
    scale = ScalePart()
    if row.granularity is not None:
        scale = given_scale(side, own, apart=kind in FACTORS_APART)
        lines += [f"{side} = {_divided(side, scale.name, own)}"]
    lines += [f"# {side}: {described(row)}", f"{side} = {rounding.call(side, f'{side}_index', side)}"]
    arguments += dict.fromkeys((*scale.arguments, *rounding.arguments(side)))
    if row.granularity is not None and not scale.factor:
        lines.append(f"{side} = {side} * {scale.name}")
    if kind not in FACTORS_APART and dtype.itemsize < 4:
        there, back = to_dtype(own, dtype), to_carrier(dtype, own)
        functions += [there.functions, back.functions]
        lines.append(f"{side} = {back.of(there.of(side))}")
    lines += [f"{side} = {side}.to({carrier})"] if own != carrier else []
    return OperandText(
        side,
        tuple(lines),
        joined(conversion.functions, *functions),
        tuple(arguments),
        _narrow(side, kind, row),
        side,
        scale,
        _WIDTHS.get(kind, 4),
        dtype.itemsize,
        (*scale.before, *rounding.before(side)),
        rounding.draws > 0,
    )


def packed_operand(side: str, known: KnownValues, layout: PackedLayout, kind: Arithmetic) -> OperandText:
    """An operand that is loaded as codes, the contracted dimension last in memory, with their scales.

    Args:
        side: ``"a"``, or ``"b"``, which is packed transposed.
        known: of the values that it stands for.
        layout: of the packed tensor.
        kind: the arithmetic of the product.

    Raises:
        BackendError: codes or scales that this kernel does not read.
    """
    row = known.row
    assert row is not None
    if layout.scale_dtype is not torch.float32:
        raise BackendError("triton: a product reads no codes of float64 values")
    scale = packed_scale(side, known, layout, kind)
    native = holds_codes(row) if kind is Arithmetic.FP8 else None
    at = f"tl.load({side}_ptr + {side}_at, mask={side}_in, other=0"
    lines, functions = [f"# {side}: {described(row)}"], ""
    narrow, wide = _narrow(side, kind, row), side
    if layout.stored is not None:
        pointer = POINTERS[layout.stored]
        conversion = to_carrier(layout.stored, "tl.float32")
        lines.append(f"{side} = {conversion.of(f'{at}.0)')}")
        functions = conversion.functions
    elif native is not None:
        codes = code_text(row, known.dtype)
        pointer, functions = _CODES[native], codes.decoder
        lines.append(f"{side} = {at}.0)")
        narrow, wide = side, codes.decode.format(f"{side}.to(tl.uint8, bitcast=True)")
    else:
        codes = code_text(row, known.dtype)
        pointer, functions = "*i16" if layout.storage == 16 else "*u8", codes.decoder
        load = f"{at})"
        if layout.storage == 4:
            half = f"tl.load({side}_ptr + ({side}_at >> 1), mask={side}_in, other=0)"
            load = f"(({half}.to(tl.int32) >> (({side}_at & 1) * 4).to(tl.int32)) & 15)"
        lines.append(f"{side} = {codes.decode.format(load)}")
    lines += scale.lines
    if scale.name and not scale.factor and not scale.partial:
        lines.append(f"{side} = {side} * {scale.name}")
        if kind not in FACTORS_APART and known.dtype.itemsize < 4:
            there, back = to_dtype("tl.float32", known.dtype), to_carrier(known.dtype, "tl.float32")
            functions = joined(functions, there.functions, back.functions)
            lines.append(f"{side} = {back.of(there.of(side))}")
    arguments = (Argument(f"{side}_ptr", pointer), *scale.arguments)
    return OperandText(
        side,
        tuple(lines),
        functions,
        arguments,
        narrow,
        wide,
        scale,
        _WIDTHS.get(kind, 4),
        layout.storage / 8,
        scale.before,
    )


def _carrier(kind: Arithmetic) -> str:
    return "tl.float64" if kind is Arithmetic.DOUBLE else "tl.float32"


def _narrow(side: str, kind: Arithmetic, row: Row | None) -> str:
    """A conversion that changes no value."""
    if kind is Arithmetic.FP8:
        return f"{side}.to({fp8_of(row)})"
    return side + {Arithmetic.BF16: ".to(tl.bfloat16)", Arithmetic.FP16: ".to(tl.float16)"}.get(kind, "")


def _divided(value: str, by: str, carrier: str) -> str:
    return f"tl.div_rn({value}, {by})" if carrier == "tl.float32" else f"{value} / {by}"


def described(row: Row) -> str:
    """The formula of a rounding, for a comment."""
    grid = row.grid
    quantum = f"q = 2**max(floor(log2 |x|) - {grid.mantissa_bits}, {grid.k_min})"
    if grid.has_one_quantum:
        quantum = f"q = 2**{grid.k_min}"
    return f"{row.mode.value} to multiples of {quantum}, from {grid.low:g} to {grid.high:g}"
