"""What commands print: a result on stdout, as text or as one JSON document; how far they are, on stderr."""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from precc.report.precision_report import PrecisionReport
from precc.strict_json import json_number
from precc.table_text import table_text

__all__ = ["Bar", "alone", "json_text", "note", "progress", "say"]


def say(chosen: argparse.Namespace, document: Any, *parts: str | Table | PrecisionReport) -> None:
    """Print a result: the parts one below the other or, with ``--json``, the document."""
    if chosen.json:
        print(json_text(document), file=chosen.stdout)
        return
    for part in parts:
        if isinstance(part, PrecisionReport) and sys.stdout.isatty():
            part.print(_console(chosen))
        elif isinstance(part, Table):
            _print(chosen, part)
        else:
            print(part)


@contextmanager
def alone(chosen: argparse.Namespace) -> Iterator[None]:
    """With ``--json``, stdout has the document alone: what code of the user's prints is then on stderr."""
    chosen.stdout = sys.stdout
    with redirect_stdout(sys.stderr if chosen.json else sys.stdout):
        yield


def note(text: str) -> None:
    """Say something beside the result, on stderr."""
    print(f"precc: {text}", file=sys.stderr)


def json_text(document: Any) -> str:
    """A document as JSON; numbers that it has not are texts: "NaN", "Infinity", "-Infinity".

    >>> print(json_text({"a": (1, float("nan"))}))
    {
     "a": [
      1,
      "NaN"
     ]
    }
    """
    return json.dumps(_written(document), indent=1, ensure_ascii=False)


def _written(own: Any) -> Any:
    if isinstance(own, Mapping):
        return {str(name): _written(entry) for name, entry in own.items()}
    if isinstance(own, Sequence) and not isinstance(own, str):
        return [_written(entry) for entry in own]
    return json_number(own) if isinstance(own, float) else own


class Bar:
    """A bar that shows how far a command is."""

    def __init__(self, shown: Progress, total: int | None) -> None:
        self._shown = shown
        self._task = shown.add_task("", total=total)

    def at(self, what: str) -> None:
        """Say what is done now."""
        self._shown.update(self._task, description=what)

    def advance(self, what: str | None = None) -> None:
        """One more of the total is done."""
        self._shown.update(self._task, advance=1, description=what)


@contextmanager
def progress(chosen: argparse.Namespace, total: int | None, done: int = 0) -> Iterator[Bar]:
    """A bar on stderr with the time that is left, where a terminal is there to show it.

    Args:
        chosen: the arguments.
        total: how often it will be advanced; None: nobody knows.
        done: of these, before.
    """
    console = Console(stderr=True, no_color=chosen.no_color or None)
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(
        *columns, console=console, disable=not console.is_terminal, transient=True, redirect_stdout=False
    ) as shown:
        bar = Bar(shown, total)
        for _ in range(done):
            bar.advance()
        yield bar


def _print(chosen: argparse.Namespace, table: Table) -> None:
    """As wide as the terminal; where there is none, in whole lines."""
    if sys.stdout.isatty():
        _console(chosen).print(table)
        return
    print(table_text(table))


def _console(chosen: argparse.Namespace) -> Console:
    return Console(no_color=chosen.no_color or None, highlight=False, markup=False)
