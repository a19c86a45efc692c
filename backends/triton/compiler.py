"""Compile kernels for a GPU that need not be there: in a process of its own, which the interpreter does not reach."""

import atexit
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from precc.backends.triton.computation import Computed, computed
from precc.backends.triton.device import Device
from precc.backends.triton.facts import CompiledFacts
from precc.backends.triton.kernel_source import KernelSource
from precc.backends.triton.load import OPTIONS, kernels_folder, source_path
from precc.backends.triton.toolchain import require_triton
from precc.errors import BackendError

__all__ = ["compiled"]

#: A product takes half a second, the slowest kernel of all a few; ptxas has been seen to search for minutes.
_SECONDS = 300.0
_SCRIPT = Path(__file__).with_name("compile_worker.py")


def compiled(
    sources: Sequence[KernelSource], device: Device, done: Callable[[KernelSource], None] | None = None
) -> list[CompiledFacts | str]:
    """What the compiler makes of kernels for a device: its facts, or why there are none.

    Pointers are taken to be divisible by 16, as those of whole tensors are. Where registers spill, `variants` are
    tried, as they are on a GPU; the facts say which it is. Of kernels that differ in names alone one
    is compiled, and its facts are those of all: the PTX is of the first.

    Args:
        sources: the kernels.
        device: a GPU, which need not be there.
        done: called after each.

    Raises:
        BackendError: Triton is missing or too old, the device is the interpreter, or no process can be started.
    """
    require_triton()
    if device.interpreted:
        raise BackendError("the interpreter runs kernels without compiling them: name a GPU, such as sm_90")
    answers: dict[Computed, dict[str, Any]] = {}
    found: list[CompiledFacts | str] = []
    for source in sources:
        own = computed(source)
        if own not in answers:
            answers[own] = _answer(source, device)
        found.append(_facts(source, device, answers[own]))
        if done is not None:
            done(source)
    return found


def _answer(source: KernelSource, device: Device) -> dict[str, Any]:
    """The facts of a kernel, or of its first variant that does not spill; its own where each does."""
    first = _worker.ask(_question(source, device))
    if not _spills(first):
        return first
    others = (_worker.ask(_question(own, device)) for own in source.variants())
    return next((own for own in others if "facts" in own and not _spills(own) and _fits(own, device)), first)


def _spills(answer: dict[str, Any]) -> bool:
    return "facts" in answer and answer["facts"]["spills"] > 0


def _fits(answer: dict[str, Any], device: Device) -> bool:
    found: int = answer["facts"]["shared_memory"]
    return found <= device.shared_memory


def _question(source: KernelSource, device: Device) -> dict[str, Any]:
    return {
        "file": str(source_path(source)),
        "name": source.name,
        "arguments": [(argument.name, argument.type) for argument in source.arguments],
        "tile": dict(source.tile),
        "capability": device.capability,
        "options": {**OPTIONS, "num_warps": source.num_warps, "num_stages": source.num_stages},
    }


def _facts(source: KernelSource, device: Device, answer: dict[str, Any]) -> CompiledFacts | str:
    if "error" in answer:
        return f"{source.name} does not compile for {device.name}: {answer['error']}"
    facts = answer["facts"]
    if facts["shared_memory"] > device.shared_memory:
        return (
            f"{source.name} needs {facts['shared_memory']} bytes of shared memory, of which {device.name} has "
            f"{device.shared_memory}: make its tile smaller"
        )
    return CompiledFacts(**{**facts, "instructions": tuple(facts["instructions"])})


class _Worker:
    """The process, started when it is first asked, and anew where it ended; one question at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._log: Any = None

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """Its answer, or an error that says how it ended."""
        with self._lock:
            try:
                line = self._asked(self._running(), question)
            except BaseException:  # Ctrl-C: the next question would get this one's answer
                self.stop()
                raise
            return json.loads(line) if line.endswith(b"\n") else {"error": self._end()}

    def _asked(self, process: "subprocess.Popen[bytes]", question: dict[str, Any]) -> bytes:
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(question).encode() + b"\n")
            process.stdin.flush()
        except OSError:  # it ended in between
            return b""
        return self._line(process)

    def stop(self) -> None:
        """End the process, where there is one of ours."""
        process, self._process = self._process, None
        if process is not None and self._owner == os.getpid():
            process.kill()
            process.communicate()
            self._log.close()

    def _running(self) -> "subprocess.Popen[bytes]":
        if self._process is None or self._owner != os.getpid() or self._process.poll() is not None:
            self.stop()
            self._process = self._started()
            self._owner = os.getpid()
        return self._process

    def _started(self) -> "subprocess.Popen[bytes]":
        environment = {name: text for name, text in os.environ.items() if name != "TRITON_INTERPRET"}
        environment["TRITON_CACHE_DIR"] = str(kernels_folder() / "compiled")
        self._log = tempfile.TemporaryFile()
        try:
            # -P: the folder of the script has modules of ours, which others must not find
            process = subprocess.Popen(
                [sys.executable, "-P", str(_SCRIPT)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                env=environment,
                start_new_session=True,  # Ctrl-C is for the one who asks
            )
        except OSError as error:
            raise BackendError(f"no process to compile kernels can be started: {error}") from error
        assert process.stdin is not None
        process.stdin.write(json.dumps({"path": [os.path.abspath(own) for own in sys.path]}).encode() + b"\n")
        return process

    def _line(self, process: "subprocess.Popen[bytes]") -> bytes:
        """One line, or what came of it in the time that it may take."""
        assert process.stdout is not None
        got = b""
        while not got.endswith(b"\n") and select.select([process.stdout], [], [], _SECONDS)[0]:
            part = os.read(process.stdout.fileno(), 1 << 20)
            if not part:
                break
            got += part
        return got

    def _end(self) -> str:
        """Why there is no answer; the process is no more."""
        assert self._process is not None
        code = self._waited(self._process)
        self._log.seek(0)
        said = self._log.read().decode(errors="replace").strip()[-1000:]
        self.stop()
        if code is None:
            return f"the compiler took more than {_SECONDS:.0f} s"
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        return f"the compiler ended {how}{f': {said}' if said else ''}"

    def _waited(self, process: "subprocess.Popen[bytes]") -> int | None:
        try:
            return process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            return None


_worker = _Worker()
atexit.register(_worker.stop)
