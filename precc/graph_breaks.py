"""Where the capture of a net was interrupted: the reason, and the line of the user's code."""

import os
from collections import Counter
from pathlib import Path
from traceback import FrameSummary

import torch
from torch._dynamo.utils import counters, graph_break_reasons

__all__ = ["GraphBreakWatch"]

_NOT_THE_USERS = tuple(str(folder) + os.sep for folder in (Path(torch.__file__).parent, Path(__file__).parent))


class GraphBreakWatch:
    """Sees the graph breaks of Dynamo from when it is made."""

    def __init__(self) -> None:
        self._known = Counter(counters["graph_break"])
        self._traced = len(graph_break_reasons)

    def found(self) -> list[str]:
        """One line for each break: what stopped the capture, and ``at file:line``, where Dynamo tells it."""
        new = list((Counter(counters["graph_break"]) - self._known).elements())
        places = [(traced.reason, _place(traced.user_stack)) for traced in graph_break_reasons[self._traced :]]
        found = []
        for reason in new:
            index = next((i for i, (own, _) in enumerate(places) if own == reason), None)
            found.append(_first_line(reason) + (places.pop(index)[1] if index is not None else ""))
        return found


def _place(stack: list[FrameSummary]) -> str:
    """The innermost line that is neither torch's nor precc's, if there is one."""
    own = [frame for frame in stack if not frame.filename.startswith(_NOT_THE_USERS)] or stack
    return f" at {own[-1].filename}:{own[-1].lineno}" if own else ""


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0] if text.strip() else "no reason given"
