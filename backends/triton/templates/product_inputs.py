"""Where the operands of a product come from: values rounded in the kernel, codes of a cast, packed tensors."""

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from precc.accumulation.accumulator import Accumulator
from precc.annotations import Product
from precc.backends.triton.alike_rows import alike
from precc.backends.triton.device import Device
from precc.backends.triton.live_rows import row_number
from precc.backends.triton.native import Arithmetic, KnownValues, arithmetic_of
from precc.backends.triton.program import Rows
from precc.backends.triton.templates.cast_copies import Copy
from precc.backends.triton.templates.cast_kernels import CastKernels, kernels_of
from precc.backends.triton.templates.packed_tensors import codes_in, scales_in
from precc.backends.triton.templates.product_operands import OperandText, packed_operand, value_operand
from precc.backends.triton.templates.product_scales import scale_terms
from precc.backends.triton.templates.product_sums import native_promotion
from precc.errors import BackendError
from precc.packing import UNPACK, PackedLayout
from precc.round_op import ROUND

__all__ = ["InputReader", "ProductInput"]

_CODES = {"*fp8e4nv": torch.float8_e4m3fn, "*fp8e5": torch.float8_e5m2, "*i16": torch.int16, "*u8": torch.uint8}


@dataclass(frozen=True, slots=True)
class ProductInput:
    """One operand.

    Args:
        source: the node whose values are rounded, read or unpacked.
        row: number of the row of which the kernel needs numbers; -1: of none.
        cast: the kernels that round it before; None if it is read as it is.
        layout: of its codes; None for values.
        codes: as the kernel reads them; the dtype of values.
        dtype: of the values.
        strides: by batch, row and term, or by batch, term and column.
        text: that loads it.
    """

    source: Node
    row: int
    cast: CastKernels | None
    layout: PackedLayout | None
    codes: torch.dtype
    dtype: torch.dtype
    strides: tuple[int, int, int]
    text: OperandText

    @property
    def named_strides(self) -> dict[str, int]:
        """The strides, as the kernel calls them."""
        names = ("a_batch", "a_row", "a_term") if self.text.side == "a" else ("b_batch", "b_term", "b_column")
        return dict(zip(names, self.strides, strict=True))

    def give(self, given: dict[str, Any], tensor: Tensor, rows: Rows) -> None:
        """Put the kernel's pointers to other arguments, by name, of the value of `source`."""
        side = self.text.side
        if self.cast is not None:
            (tensor,) = self.cast(tensor, [rows[self.row]])
        given[f"{side}_ptr"] = tensor if self.layout is None else codes_in(tensor, self.codes)
        if self.layout is not None and self.layout.scale_count:
            given[f"{side}_scale_ptr"] = scales_in(tensor, self.layout)


class InputReader:
    """Reads the operands of a product in a group.

    Args:
        node: the product.
        record: what it is.
        values: of the group's nodes, without data.
        rows: of the plan.
        device: that it is for.
        name: of the group.
        promotion: terms of 8-bit products between additions to float32, where `sums` are not rounded.
        sums: how they are rounded; None for the tensors' own arithmetic.
    """

    def __init__(
        self,
        node: Node,
        record: Product,
        values: Mapping[Node, Any],
        rows: Rows,
        device: Device,
        name: str,
        promotion: int,
        sums: Accumulator | None = None,
    ) -> None:
        self._values, self._rows, self._device, self._name = values, rows, device, name
        self._nodes: list[Node] = [node.args[own.position] for own in record.operands]  # type: ignore[misc]
        self._numbers = [self._number(own, record.row + n) for n, own in enumerate(self._nodes)]
        self._known = [self._what_is_known(n) for n in (0, 1)]
        self.kind = arithmetic_of(self._known[0], self._known[1], device)
        rounded = [own.rounded for own in self._known]
        #: terms of 8-bit products between additions to float32; None where the sums are rounded term by term
        self.promotion = promotion if sums is None else native_promotion(sums, rounded, device)
        if self.promotion is None and self.kind is not Arithmetic.DOUBLE:
            self.kind = Arithmetic.IEEE  # values as the tensors have them

    def without_fp8(self) -> "InputReader":
        """The same, in arithmetic of 16 bits or more."""
        other = copy(self)
        other.kind = arithmetic_of(self._known[0], self._known[1], replace(self._device, capability=80))
        return other

    def read(self, n: int) -> ProductInput:
        """The first operand or the second.

        Raises:
            BackendError: no kernel reads it.
        """
        node, known, number = self._nodes[n], self._known[n], self._numbers[n]
        row, source = known.rounded, node.args[0] if node.target in (ROUND, UNPACK) else node
        assert isinstance(source, Node)
        if node.target is UNPACK:
            if bool(node.args[5]) is not (n == 1):
                raise BackendError(f"triton: the codes of {node.name} do not have the contracted dimension last")
            return self._packed(n, source, None)
        if node.target is not ROUND or row is None:
            text = value_operand("ab"[n], known.dtype, None, row, self.kind)
            return ProductInput(source, -1, None, None, known.dtype, known.dtype, _strides(self._values[source]), text)
        if not row.finds_scales and not self._rows[number].records:
            wide = self._values[source].numel() > 1 << 32
            text = value_operand("ab"[n], known.dtype, row, row, self.kind, wide)
            return ProductInput(
                source, number, None, None, known.dtype, known.dtype, _strides(self._values[source]), text
            )
        packed = self.kind not in (Arithmetic.IEEE, Arithmetic.DOUBLE)
        cast = self._cast(n, source, packed=packed)
        if packed:
            return self._packed(n, source, cast)
        text = value_operand("ab"[n], known.dtype, None, row, self.kind)
        strides = _strides(torch.empty_like(self._values[node]))
        return ProductInput(source, number, cast, None, known.dtype, known.dtype, strides, text)

    def _number(self, node: Node, planned: int) -> int:
        return row_number(node) if node.target in (ROUND, UNPACK) else planned

    def _what_is_known(self, n: int) -> KnownValues:
        node, live = self._nodes[n], self._rows.get(self._numbers[n])
        value, row = self._values[node], None if live is None else live.row
        known = KnownValues(value.dtype, row)
        if node.target not in (ROUND, UNPACK):
            return known
        return KnownValues(value.dtype, row, scale_terms(tuple(value.shape), known, (-1, -2)[n]))

    def _cast(self, n: int, source: Node, *, packed: bool) -> CastKernels:
        value, own, row = self._values[self._nodes[n]], self._values[source], self._known[n].row
        assert row is not None
        strides = () if packed else torch.empty_like(value).stride()
        same = alike(row, value.dtype)
        copy = Copy(
            same,
            tuple(range(value.dim())),
            packed,
            packed and n == 1,
            strides,
            records=self._rows[self._numbers[n]].records,
        )
        name = f"{self._name}_{'ab'[n]}"
        return kernels_of(tuple(value.shape), own.stride(), own.dtype, (copy,), self._device, name)

    def _packed(self, n: int, source: Node, cast: CastKernels | None) -> ProductInput:
        known, value, side = self._known[n], self._values[self._nodes[n]], "ab"[n]
        assert known.row is not None
        layout = PackedLayout.of(known.row, tuple(value.shape), value.dtype, side == "b")
        if known.rounded is None:
            text = value_operand(side, value.dtype, None, None, self.kind)
        else:
            text = packed_operand(side, known, layout, self.kind)
        kept, terms = value.shape[-2 + n], value.shape[-1 - n]
        strides = (kept * terms, terms, 1) if side == "a" else (kept * terms, 1, terms)
        pointer = next(own.type for own in text.arguments if own.name == f"{side}_ptr")
        codes = layout.stored or _CODES[pointer]
        return ProductInput(source, self._numbers[n], cast, layout, codes, value.dtype, strides, text)


def _strides(value: Tensor) -> tuple[int, int, int]:
    return (value.stride(0) if value.dim() == 3 else 0, value.stride(-2), value.stride(-1))
