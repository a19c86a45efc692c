"""Where the capture of a net was interrupted: the reason, and the line of the user's code."""

from collections import Counter
from collections.abc import Mapping
from traceback import FrameSummary

from torch._dynamo.utils import counters, graph_break_reasons

from precc.users_code import is_of_torch_or_ours

__all__ = ["GraphBreakWatch", "first_line"]


class GraphBreakWatch:
    """Sees the graph breaks of Dynamo from when it is made."""

    def __init__(self) -> None:
        self._known = Counter(counters["graph_break"])
        self._traced = len(graph_break_reasons)

    def found(self, skipped: Mapping[str, str]) -> list[str]:
        """One line for each break: what stopped the capture, and ``at file:line``, where Dynamo tells it.

        Args:
            skipped: why code was not captured at all, and ``file:line`` where it begins.
        """
        new = list((Counter(counters["graph_break"]) - self._known).elements())
        places = [(traced.reason, _place(traced.user_stack)) for traced in graph_break_reasons[self._traced :]]
        told = {first_line(reason) for reason in new}
        found = [f"{why} in the code at {where}" for why, where in skipped.items() if why not in told]
        for reason in new:
            index = next((i for i, (own, _) in enumerate(places) if own == reason), None)
            found.append(first_line(reason) + (places.pop(index)[1] if index is not None else ""))
        return found


def _place(stack: list[FrameSummary]) -> str:
    """The innermost line that is neither torch's nor precc's, if there is one."""
    own = [frame for frame in stack if not is_of_torch_or_ours(frame.filename)] or stack
    return f" at {own[-1].filename}:{own[-1].lineno}" if own else ""


def first_line(text: str) -> str:
    """The first line of a reason that Dynamo gives."""
    return text.strip().splitlines()[0] if text.strip() else "no reason given"
