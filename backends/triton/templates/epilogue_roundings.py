"""The roundings of an epilogue: values rounded at their place in a tile, and their codes."""

from torch.fx import Node

from precc.backends.triton.emit.amax_record import amax_argument, amax_line, magnitudes
from precc.backends.triton.emit.codes import code_text
from precc.backends.triton.emit.live_numbers import live_argument, scale_line
from precc.backends.triton.emit.rounding import rounding_text
from precc.backends.triton.emit.scales import divided_text, scale_text
from precc.backends.triton.kernel_source import Argument
from precc.backends.triton.live_rows import row_number
from precc.backends.triton.program import Rows
from precc.backends.triton.templates.epilogue import INTEGERS, packed_place
from precc.backends.triton.templates.epilogue_blocks import ScaleBlocks
from precc.backends.triton.templates.epilogue_lines import EpilogueLines
from precc.backends.triton.templates.product_operands import described
from precc.errors import BackendError
from precc.packing import PackedLayout
from precc.rounding import Row

__all__ = ["EpilogueRoundings"]


class EpilogueRoundings:
    """Writes roundings to the other lines of an epilogue.

    Args:
        text: those.
        rows: of the plan.
    """

    def __init__(self, text: EpilogueLines, rows: Rows) -> None:
        self.text, self._rows = text, rows
        self._coded: dict[tuple[Node, int], tuple[str, str]] = {}  # names of codes, prefix of their rounding

    def round(self, node: Node) -> None:
        """A rounding, by scales that are given or none."""
        source, row = self._source(node)
        if row.is_identity(self.text.values[source].dtype):
            self.text.names[node] = self.text.names[source]
            return
        text, prefix = self._rounded_elements(node, source, row)
        scale = "" if row.granularity is None else f" * {prefix}_{'scale_each' if row.finds_scales else 'given'}"
        self.text.name(node, f"{text}{scale}")

    def pack(self, node: Node) -> None:
        """The codes of a rounding, written where `packed_place` says, and the scales of its blocks."""
        source, row = self._source(node)
        value = self.text.values[source]
        layout = PackedLayout.of(row, value.shape, value.dtype, bool(node.args[3]))
        place = packed_place(layout, self.text.sizes, source in self.text.places.swapped, row)
        assert place is not None
        key = source, row_number(node)
        if key not in self._coded:
            codes = code_text(row, value.dtype)
            self.text.functions.append(codes.encoder)
            text, prefix = self._rounded_elements(node, source, row)
            self.text.lines.append(f"{node.name} = {codes.encode.format(text)}")
            self._coded[key] = node.name, prefix
        name, prefix = self._coded[key]
        n = self.text.output(node, "*i16" if layout.storage == 16 else "*u8")
        self.text.packed[node] = layout, place
        if layout.storage == 4:
            self._write_pairs(n, name, by_row=place.row == 1 and place.column != 1)
        else:
            self.text.write(n, f"{name}.to({INTEGERS[layout.storage]})")
        blocks = self._blocks(node)
        if blocks is not None:
            self.text.arguments.append(Argument(f"out{n}_scale_ptr", "*fp32"))
            self.text.lines += blocks.stored(f"{prefix}_scale", f"out{n}_scale_ptr")

    def _write_pairs(self, n: int, codes: str, *, by_row: bool) -> None:
        """Two codes a byte, the lower half first, along the dimension in which they are consecutive."""
        across, size, block, index = "rows", "N", "BLOCK_N", "n"
        if by_row:
            across, size, block, index = "columns", "M", "BLOCK_M", "m"
            codes = f"tl.trans({codes})"
        other = "BLOCK_N" if by_row else "BLOCK_M"
        stride, limit = ("column", "N") if by_row else ("row", "M")
        pairs = f"pairs{n}"
        self.text.least[by_row] = max(self.text.least[by_row], 2)
        self.text.lines += [
            f"low{n}, high{n} = tl.split(tl.reshape({codes}, [{other}, {block} // 2, 2]))",
            f"{pairs} = {index} * ({block} // 2) + tl.arange(0, {block} // 2)",
            f"{pairs}_in = ({across}[:, None] < {limit}) & ({pairs}[None, :] * 2 < {size})",
            f"{pairs}_at = (z * out{n}_batch + {across}[:, None] * out{n}_{stride}) // 2 + {pairs}[None, :]",
            f"tl.store(out{n}_ptr + {pairs}_at, (low{n} | (high{n} << 4)).to(tl.uint8), mask={pairs}_in)",
        ]

    def _blocks(self, node: Node) -> ScaleBlocks | None:
        """The blocks of a rounding whose scales are found; None where scales are given, or there are none."""
        source, row = node.args[0], self._rows[row_number(node)].row
        assert isinstance(source, Node)
        assert row is not None
        return ScaleBlocks.of(row, self.text.values[source].shape, self.text.sizes, source in self.text.places.swapped)

    def _source(self, node: Node) -> tuple[Node, Row]:
        """What is rounded, and how."""
        source, row = node.args[0], self._rows[row_number(node)].row
        assert isinstance(source, Node)
        assert row is not None
        self.text.places.same(node, source)
        return source, row

    def _rounded_elements(self, node: Node, source: Node, row: Row) -> tuple[str, str]:
        """The expression of rounded elements before they are multiplied by their scale, and the arguments' prefix."""
        rounding = rounding_text(row, self.text.values[source].dtype, self.text.values[source].numel() > 1 << 32)
        if rounding.carrier != self.text.carrier:
            raise BackendError(
                f"triton: {node.name} is rounded in {rounding.carrier}, its product is in {self.text.carrier}"
            )
        prefix = f"round{len(self.text.rounded)}"
        self.text.rounded[prefix] = node
        if rounding.draws or (row.granularity is not None and not row.finds_scales):
            self.text.arguments.append(live_argument(prefix))
        self.text.lines += rounding.before(prefix)
        self.text.functions.append(rounding.functions)
        value = self.text.names[source]
        self._record(node, value, prefix)
        if row.finds_scales:
            value = self._divided_by_found(node, value, prefix)
        elif row.granularity is not None:
            value = self._divided(value, prefix)
        index = f"{prefix}_index"
        if rounding.draws:
            inner = "columns[None, :] * M + rows[:, None]"
            if node not in self.text.places.swapped:
                inner = "rows[:, None] * N + columns[None, :]"
            self.text.lines.append(f"{index} = z * M * N + {inner}")
        self.text.lines.append(f"# {node.name}: {described(row)}")
        return rounding.call(value, index, prefix), prefix

    def _record(self, node: Node, value: str, prefix: str) -> None:
        """Record the largest magnitude of what is rounded, where its row says so."""
        if self._rows[row_number(node)].records:
            self.text.arguments.append(amax_argument(prefix))
            self.text.lines.append(f"{prefix}_largest = tl.max(tl.max({magnitudes(value, self.text.carrier)}, 1), 0)")
            self.text.lines.append(amax_line(prefix, f"{prefix}_largest", self.text.carrier))

    def _divided_by_found(self, node: Node, value: str, prefix: str) -> str:
        """A value by the scales of its blocks."""
        blocks, row = self._blocks(node), self._source(node)[1]
        assert blocks is not None
        scale, (name, text) = scale_text(row, self.text.carrier), divided_text(self.text.carrier)
        self.text.functions += [scale.functions, text]
        self.text.lines += blocks.found(value, f"{prefix}_scale", scale.name)
        self.text.least = [max(self.text.least[0], blocks.columns), max(self.text.least[1], blocks.rows)]
        return f"{name}({value}, {prefix}_scale_each)"

    def _divided(self, value: str, prefix: str) -> str:
        """A value by a scale that is given."""
        self.text.lines.append(scale_line(f"{prefix}_given", prefix, self.text.carrier))
        if self.text.carrier == "tl.float32":
            return f"tl.div_rn({value}, {prefix}_given)"
        return f"{value} / {prefix}_given"
