"""A table as text where no terminal says how wide it is."""

import io

from rich.console import Console
from rich.table import Table

__all__ = ["table_text"]

#: Columns of text that it may take; it is as narrow as its cells.
_WIDEST = 10_000


def table_text(table: Table) -> str:
    """Whole lines without colours, and without blanks at their ends."""
    text = io.StringIO()
    Console(file=text, width=_WIDEST, color_system=None, highlight=False, markup=False).print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())
