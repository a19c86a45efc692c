"""The functions of a model that compute ops, line by line."""

import ast
import linecache
from collections.abc import Mapping, Sequence

from precc.report.source_listing import SourceLine, SourceListing
from precc.source_places import Place

__all__ = ["source_listings"]


def source_listings(places: Mapping[str, Place]) -> tuple[list[SourceListing], list[str]]:
    """The functions that these lines are in, in the order of the ops, each once.

    Args:
        places: lines by op.

    Returns:
        The listings, and sentences on files that are not as they were when the net was captured.
    """
    by_file: dict[str, dict[int, list[str]]] = {}
    for op, place in places.items():
        by_file.setdefault(place.file, {}).setdefault(place.line, []).append(op)
    codes = {(place.file, place.line): place.code for place in places.values()}
    found: list[SourceListing] = []
    missing = []
    for file, ops in by_file.items():
        lines = linecache.getlines(file)
        changed = [line for line in ops if not _holds(lines, line, codes[file, line])]
        if changed:
            missing.append(
                f"the source of {file} is not shown: line {changed[0]} is not there any more, or not the one that was "
                "captured; compile the net anew"
            )
        else:
            found += _of_file(file, lines, ops)
    return found, missing


def _holds(lines: Sequence[str], line: int, code: str) -> bool:
    """Whether a file has the line that was captured."""
    there = 0 < line <= len(lines)
    return there and (not code or lines[line - 1].strip().startswith(code.strip()[:40]))


def _of_file(file: str, lines: Sequence[str], ops: Mapping[int, Sequence[str]]) -> list[SourceListing]:
    functions = _functions(lines)
    chosen: dict[tuple[str, int, int], dict[int, Sequence[str]]] = {}
    for line, own in ops.items():
        around = [span for span in functions if span[1] <= line <= span[2]]
        span = max(around, key=lambda own: own[1], default=("", line, line))
        chosen.setdefault(span, {})[line] = own
    return [
        SourceListing(
            name,
            file,
            tuple(
                SourceLine(number, lines[number - 1].rstrip(), tuple(own.get(number, ())))
                for number in range(first, last + 1)
            ),
        )
        for (name, first, last), own in chosen.items()
    ]


def _functions(lines: Sequence[str]) -> list[tuple[str, int, int]]:
    """Name, with its classes, first and last line of each function; none of a file that is no Python."""
    try:
        tree = ast.parse("".join(lines))
    except SyntaxError:  # as of a notebook's cell with magic commands: lines are listed by themselves
        return []
    return [found for node in tree.body for found in _inside(node, "")]


def _inside(node: ast.AST, prefix: str) -> list[tuple[str, int, int]]:
    found: list[tuple[str, int, int]] = []
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        name = f"{prefix}{node.name}"
        if not isinstance(node, ast.ClassDef):
            found.append((name, node.lineno, node.end_lineno or node.lineno))
        prefix = f"{name}."
    for child in ast.iter_child_nodes(node):
        found += _inside(child, prefix)
    return found
