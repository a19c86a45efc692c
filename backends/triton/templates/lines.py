"""The text of a kernel over tiles as it is written: arguments, lines, and the functions that they call."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field

from precc.backends.triton.emit.device_functions import joined
from precc.backends.triton.kernel_source import Argument, KernelSource
from precc.backends.triton.templates.cast_tiles import CastTile, Extent
from precc.backends.triton.templates.cast_view import CastView, Dim

__all__ = ["Lines", "Side"]


@dataclass(frozen=True, slots=True)
class Side:
    """A dimension of what a kernel loads at once: the names of its coordinates, of its number and of its length."""

    name: str
    tile: str
    dim: Dim
    own: Extent
    parameter: str


@dataclass(slots=True)
class Lines:
    """A kernel as it is written: its arguments, its lines and the functions that it calls."""

    view: CastView
    tile: CastTile
    wide: bool
    arguments: list[Argument] = field(default_factory=list)
    body: list[str] = field(default_factory=list)
    functions: list[str] = field(default_factory=list)
    stepping: bool = False
    scope: int = 0

    @property
    def integer(self) -> str:
        """The type of sizes, strides and addresses."""
        return "i64" if self.wide else "i32"

    def argument(self, name: str, kind: str) -> str:
        """The name of an argument, which there is from then on."""
        if all(own.name != name for own in self.arguments):
            self.arguments.append(Argument(name, kind))
        return name

    def add(self, *lines: str) -> None:
        """Lines of the kernel, of its loop where it is in one."""
        self.body += [f"    {line}" if self.stepping else line for line in lines]

    def begin_steps(self) -> None:
        """From here on, lines of a loop over the steps of the tile."""
        self.add("for step in range(ROWS // STEP):")
        self.stepping, self.scope = True, len(self.body)
        self.add("row_step = row_tile * (ROWS // STEP) + step")

    def end_steps(self) -> None:
        """From here on, lines behind the loop."""
        self.stepping, self.scope = False, len(self.body)

    @property
    def rows(self) -> str:
        """The parameter for the rows of what is loaded at once."""
        return "STEP" if self.stepping else "ROWS"

    @property
    def sides(self) -> list["Side"]:
        """The dimensions of what is loaded at once."""
        rows = Extent(self.tile.step) if self.stepping else self.tile.rows
        return [
            Side("row", "row_step" if self.stepping else "row_tile", self.view.rows, rows, self.rows),
            Side("column", "column_tile", self.view.columns, self.tile.columns, "COLUMNS"),
        ]

    def has(self, name: str) -> bool:
        """Whether a line gives something this name."""
        return any(line.strip().startswith(f"{name} = ") for line in self.body[self.scope :])

    def call(self, functions: str) -> None:
        """Functions that the lines call."""
        self.functions.append(functions)

    def source(self, name: str, template: str, about: Sequence[str]) -> KernelSource:
        """The kernel, in its tile."""
        warps = self.tile.num_warps
        return KernelSource(
            name, template, self._text(name, about), tuple(self.arguments), self.tile.sizes, num_warps=warps
        )

    def _text(self, name: str, about: Sequence[str]) -> str:
        """The module."""
        parameters = [*(own.name for own in self.arguments), *(f"{size}: tl.constexpr" for size in self.tile.sizes)]
        names = textwrap.fill(", ".join(parameters), 100, initial_indent="    ", subsequent_indent="    ")
        body = "".join(f"    {line}\n" for line in [*(f"# {line}" for line in about), *self.body])
        before = joined(*self.functions)
        between = f"{before}\n\n" if before else ""
        head = "import triton\nimport triton.language as tl\n\n\n"
        return f"{head}{between}@triton.jit\ndef {name}(\n{names}\n):\n{body}"
