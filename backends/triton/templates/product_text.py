"""The text of a matrix product: operands as they are loaded, sums, and what is made of the sums at their place."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from precc.backends.triton.emit.device_functions import joined
from precc.backends.triton.kernel_source import Argument
from precc.backends.triton.native import Arithmetic
from precc.backends.triton.templates.epilogue import Epilogue
from precc.backends.triton.templates.product_operands import OperandText
from precc.backends.triton.templates.product_sums import RoundedSums

__all__ = ["WITHOUT_INTERPRETER", "ProductText", "product_text"]

_SIZES = ("M", "N", "K")
_STRIDES = ("a_batch", "a_row", "a_term", "b_batch", "b_term", "b_column")


@dataclass(frozen=True, slots=True)
class ProductText:
    """A module with one kernel.

    Args:
        text: of the module.
        arguments: of the kernel.
    """

    text: str
    arguments: tuple[Argument, ...]


def product_text(
    name: str,
    title: Sequence[str],
    a: OperandText,
    b: OperandText,
    kind: Arithmetic,
    epilogue: Epilogue,
    *,
    strides: Mapping[str, int],
    promotion: int,
    wide: bool,
    rounded: RoundedSums | None = None,
) -> ProductText:
    """The kernel ``sums[m, n] = sum over k of a[m, k] b[k, n]``, and its epilogue.

    Args:
        name: of the kernel.
        title: what it computes, for a comment.
        a: its first operand.
        b: its second.
        kind: the arithmetic.
        epilogue: what follows.
        strides: of operands and outputs, and sizes, as they will be.
        promotion: terms of 8-bit products between additions to float32; 0: no sum of them is added to another.
        wide: whether offsets need 64 bits.
        rounded: how the sums are rounded; None: not at all.
    """
    integer, widen = ("i64", ".to(tl.int64)") if wide else ("i32", "")
    steps = (*_STRIDES, *epilogue.strides)
    known = {own: strides[own] for own in steps if strides[own] in (0, 1)}
    sixteens = [own for own in ("K", *steps) if strides[own] and strides[own] % 16 == 0]

    def argument(own: str, integer: str) -> Argument:
        return Argument(f"{own}_16" if own in sixteens else own, integer)

    arguments = (
        *a.arguments,
        *b.arguments,
        *(rounded.arguments if rounded else ()),
        *epilogue.arguments,
        *(argument(own, "i32") for own in _SIZES),
        *(argument(own, integer) for own in steps if own not in known),
    )
    body = [*(f"# {line}" for line in title), *(f"{own}: tl.constexpr = {step}" for own, step in known.items())]
    # a number that fits 32 bits has them, whatever the argument's type
    body += [f"{own} = {f'tl.cast({own}_16, tl.int64)' if wide else f'{own}_16'} * 16" for own in sixteens]
    body += [*_place(widen), *a.before, *b.before]
    if rounded:
        body += rounded.lines(lambda k: _loads(a, b, f"{k} + tl.arange(0, 1){widen}"))
    else:
        body += [*_loop(a, b, kind, promotion, widen), *_factors(a, b)]
    body += epilogue.lines
    names = ", ".join(own.name for own in arguments)
    constants = ["BLOCK_M", "BLOCK_N", *([] if rounded else ["BLOCK_K"])]
    constants += ["INTERPRETED"] if kind in WITHOUT_INTERPRETER else []
    tile = ", ".join(f"{own}: tl.constexpr" for own in constants)
    kernel = f"@triton.jit\ndef {name}({names}, {tile}):\n" + "".join(f"    {line}\n" for line in body)
    functions = joined(a.functions, b.functions, rounded.functions if rounded else "", *epilogue.functions)
    parts = ["import triton\nimport triton.language as tl\n", *([functions] if functions.strip() else []), kernel]
    return ProductText("\n\n".join(parts), arguments)


def _place(widen: str) -> list[str]:
    item = "tl.program_id(0) // (tiles_m * tiles_n)"
    return [
        "# programs in groups of 8 rows of tiles: operands are found in the cache again",
        "tiles_m, tiles_n = tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N)",
        "tile = tl.program_id(0) % (tiles_m * tiles_n)",
        "group = tile // (8 * tiles_n)",
        "height = min(tiles_m - group * 8, 8)",
        "m = group * 8 + tile % (8 * tiles_n) % height",
        "n = tile % (8 * tiles_n) // height",
        f"z = ({item}){widen}" if widen else f"z = {item}",
        f"rows = m * BLOCK_M + tl.arange(0, BLOCK_M){widen}",
        f"columns = n * BLOCK_N + tl.arange(0, BLOCK_N){widen}",
    ]


def _loop(a: OperandText, b: OperandText, kind: Arithmetic, promotion: int, widen: str) -> list[str]:
    sums = "tl.float64" if kind is Arithmetic.DOUBLE else "tl.float32"
    inside = [*_loads(a, b, f"k + tl.arange(0, BLOCK_K){widen}"), *_step(a, b, kind, promotion)]
    return [
        f"sums = tl.zeros((BLOCK_M, BLOCK_N), dtype={sums})",
        "for k in range(0, K, BLOCK_K):",
        *(f"    {line}" for line in inside),
    ]


def _loads(a: OperandText, b: OperandText, terms: str) -> list[str]:
    """Lines that load the blocks of some terms."""
    return [
        f"terms = {terms}",
        "a_at = z * a_batch + rows[:, None] * a_row + terms[None, :] * a_term",
        "a_in = (rows[:, None] < M) & (terms[None, :] < K)",
        *(["a_index = (z * M + rows[:, None]) * K + terms[None, :]"] if a.needs_index else []),
        *a.lines,
        "b_at = z * b_batch + terms[:, None] * b_term + columns[None, :] * b_column",
        "b_in = (terms[:, None] < K) & (columns[None, :] < N)",
        *(["b_index = (z * K + terms[:, None]) * N + columns[None, :]"] if b.needs_index else []),
        *b.lines,
    ]


def _step(a: OperandText, b: OperandText, kind: Arithmetic, promotion: int) -> list[str]:
    options = {
        Arithmetic.FP8: _imprecise(promotion),
        Arithmetic.TF32: ', input_precision="tf32"',
        Arithmetic.IEEE: ', input_precision="ieee"',
        Arithmetic.DOUBLE: ", out_dtype=tl.float64",
    }.get(kind, "")
    narrow = _added(a, b, a.narrow, b.narrow, options)
    if kind not in WITHOUT_INTERPRETER:
        return [narrow]
    wide = _added(a, b, a.wide, b.wide, ', input_precision="ieee"')
    why = "it has no product of bfloat16, and no NaN of 8 bits: the same values in float32"
    return [f"if INTERPRETED:  # {why}", f"    {wide}", "else:", f"    {narrow}"]


def _imprecise(promotion: int) -> str:
    """The option of a product of 8-bit operands; without it Triton adds none of their sums to others."""
    block = f"BLOCK_K if BLOCK_K < {promotion} else {promotion}"
    return f", max_num_imprecise_acc={block}" if promotion else ""


#: Kinds whose products Triton's interpreter has not, or not with NaN.
WITHOUT_INTERPRETER = frozenset({Arithmetic.FP8, Arithmetic.BF16})


def _added(a: OperandText, b: OperandText, first: str, second: str, options: str) -> str:
    partial = " * ".join(own.scale.partial for own in (a, b) if own.scale.partial)
    if partial:
        return f"sums += tl.dot({first}, {second}{options}) * {partial}"
    return f"sums = tl.dot({first}, {second}, sums{options})"


def _factors(a: OperandText, b: OperandText) -> list[str]:
    return [f"sums = sums * {own.scale.factor}" for own in (a, b) if own.scale.factor]
