"""Which code Dynamo leaves out of the graphs, and for how long."""

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass
from types import CodeType
from typing import Any

from torch._C._dynamo.eval_frame import _FrameAction, _FrameExecStrategy
from torch._dynamo import trace_rules
from torch._dynamo.guards import DeletedGuardManagerWrapper
from torch._dynamo.types import ConvertFrameReturn
from torch._dynamo.utils import counters

from precc.capture import GraphCompiler
from precc.graph_breaks import first_line
from precc.users_code import is_users

__all__ = ["FrameCapture"]

#: How Dynamo's reason begins where the code itself raised an exception while it was traced.
_RAISED = "Observed exception"
_KINDS = ("unimplemented", "graph_break")


class FrameCapture:
    """Dynamo's callback for the code that one entry point reaches.

    Dynamo leaves code out of all later calls once it was not traced, also where that was for an exception of the code
    itself, a call without tensors, or a mode around the call; and what it captured in pieces for the sake of inputs
    that no product takes, it uses for all inputs. What such code computes would never be rounded again. So code is
    given up here, and that only where Dynamo cannot trace it; and `undo` is for a call that failed.

    Args:
        callback: Dynamo's own.
        compiler: makes the graphs.
    """

    def __init__(self, callback: Any, compiler: GraphCompiler) -> None:
        self._torchdynamo_orig_backend = callback  # eval_frame.c finds the cache of a backend by this name
        self._compiler = compiler
        self._given_up: dict[int, CodeType] = {}  # by identity: equal code may be of two files
        self._breaks: set[str] = set()  # reasons for pieces in calls that succeeded
        self.why: dict[str, str] = {}  #: in this call: what kept code from being captured, and where it begins
        self.undone = 0  #: how many captures were dropped
        self._new: list[CodeType] = []  # given up in this call
        self._pieces: list[_Pieces] = []  # captured in this call

    def __call__(self, frame: Any, cache_entry: Any, frame_state: Any) -> ConvertFrameReturn:
        code = frame.f_code
        if id(code) in self._given_up:
            return ConvertFrameReturn(_SKIP, apply_to_code=False)
        before = {kind: Counter(counters[kind]) for kind in _KINDS}
        graphs = self._compiler.numbers_of_graphs
        # Dynamo's own numbers of frames begin anew with torch.compiler.reset(), also those of other nets
        self._compiler.frame = _identity(code)
        found: ConvertFrameReturn = self._torchdynamo_orig_backend(frame, cache_entry, frame_state)
        reasons = [reason for kind in _KINDS for reason in Counter(counters[kind]) - before[kind]]
        if found.guarded_code is not None and reasons:
            made = self._compiler.numbers_of_graphs - graphs
            self._pieces.append(_Pieces(reasons, found.guarded_code.guard_manager, made))
        elif found.guarded_code is None and found.frame_exec_strategy.cur_action == _FrameAction.SKIP:
            self._skip(code, reasons, found)
        return found

    def _skip(self, code: CodeType, reasons: list[str], found: ConvertFrameReturn) -> None:
        if trace_rules.check(code):  # torch's own, and Python's
            return
        found.apply_to_code = False
        raised = any(reason.startswith(_RAISED) for reason in reasons)
        if reasons and not raised:
            self._given_up[id(code)] = code
            self._new.append(code)
        if reasons and is_users(code.co_filename):
            why = "An exception of the model" if raised else first_line(reasons[-1])
            self.why[why] = f"{code.co_filename}:{code.co_firstlineno}"

    def keep(self) -> None:
        """After a call that succeeded: what was found out holds."""
        self._breaks.update(reason for pieces in self._pieces for reason in pieces.reasons)
        self._begin()

    def undo(self) -> None:
        """Have the next call try again what this one, which failed, left out or captured in pieces for its own sake."""
        for code in self._new:
            self._given_up.pop(id(code), None)
        for pieces in self._pieces:
            manager = pieces.guards
            if manager.cache_entry is not None and not self._breaks.issuperset(pieces.reasons):
                manager.extra_state.invalidate(manager.cache_entry, DeletedGuardManagerWrapper("the call failed"))
                self._compiler.drop(pieces.graphs)
                self.undone += 1
        self._begin()

    def _begin(self) -> None:
        self._new, self.why, self._pieces = [], {}, []


def _identity(code: CodeType) -> Hashable:
    """Equal for code that is made again of the same source, and for no other."""
    constants = [_identity(own) if isinstance(own, CodeType) else repr(own) for own in code.co_consts]
    where = (code.co_filename, code.co_qualname, tuple(code.co_positions()))
    return (*where, code.co_code, code.co_names, tuple(constants))


@dataclass(frozen=True, slots=True)
class _Pieces:
    """Code that was captured in pieces.

    Args:
        reasons: for which.
        guards: decide which calls run the pieces.
        graphs: numbers of those that were captured.
    """

    reasons: list[str]
    guards: Any
    graphs: frozenset[int]


_SKIP = _FrameExecStrategy(_FrameAction.SKIP, _FrameAction.DEFAULT)
