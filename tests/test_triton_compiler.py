"""Kernels compiled for GPUs that are not there: facts, what goes wrong, and the process that does it."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from precc.backends.triton import compiler
from precc.backends.triton.compiler import compiled
from precc.backends.triton.device import DEVICES, INTERPRETER, device_named
from precc.backends.triton.facts import CompiledFacts
from precc.backends.triton.kernel_source import KernelSource
from precc.errors import BackendError
from tests.triton_sources import DOUBLED, WRONG, product

SM_90 = DEVICES["sm_90"]


@pytest.mark.parametrize("name", DEVICES)
def test_facts_of_a_kernel(name: str) -> None:
    (facts,) = compiled([DOUBLED], DEVICES[name])
    assert isinstance(facts, CompiledFacts)
    assert 0 < facts.registers < 64
    assert facts.spills == 0
    assert facts.instructions == ()
    assert f".target sm_{DEVICES[name].capability}" in facts.ptx


def test_a_multiply_and_an_add_stay_two_roundings() -> None:
    (facts,) = compiled([DOUBLED], SM_90)
    assert isinstance(facts, CompiledFacts)
    assert "mul" in facts.ptx
    assert "fma" not in facts.ptx


@pytest.mark.parametrize(
    ("device", "kind", "opcode"),
    [
        ("sm_80", "bf16", "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32"),
        ("sm_89", "fp8e5", "mma.sync.aligned.m16n8k32.row.col.f32.e5m2.e5m2.f32"),
        ("sm_90", "fp8e4nv", "wgmma.mma_async.sync.aligned.m64n64k32.f32.e4m3.e4m3"),
        ("sm_90", "bf16", "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16"),
    ],
)
def test_opcodes_that_multiply_matrices(device: str, kind: str, opcode: str) -> None:
    (facts,) = compiled([product(kind)], device_named(device))
    assert isinstance(facts, CompiledFacts)
    assert facts.instructions == (opcode,)
    assert 0 < facts.shared_memory <= device_named(device).shared_memory


def test_registers_that_do_not_fit_are_spills(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variant that has none is taken; where there is none, they are said."""
    (facts,) = compiled([product("fp16", 128, num_warps=1)], SM_90)
    assert isinstance(facts, CompiledFacts)
    assert (facts.spills, facts.num_warps, facts.num_stages) == (0, 4, 3)
    monkeypatch.setattr(KernelSource, "variants", lambda own: ())
    (facts,) = compiled([product("fp16", 128, num_warps=1)], SM_90)
    assert isinstance(facts, CompiledFacts)
    assert facts.spills > 0


def test_what_does_not_compile_is_said_and_others_do() -> None:
    told = []
    wrong, facts, unknown = compiled([WRONG, DOUBLED, product("fp8e4nv")], DEVICES["sm_80"], told.append)
    assert isinstance(wrong, str)
    assert "wrong does not compile for sm_80" in wrong
    assert "missing" in wrong
    assert isinstance(facts, CompiledFacts)
    assert isinstance(unknown, str)
    assert "fp8e4nv not supported" in unknown
    assert len(told) == 3


def test_shared_memory_beyond_the_device() -> None:
    (found,) = compiled([product("bf16")], replace(SM_90, name="tiny", shared_memory=64))
    assert isinstance(found, str)
    assert "bytes of shared memory, of which tiny has 64: make its tile smaller" in found


def test_a_process_that_ends_is_a_result(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    worker = compiler._Worker()
    monkeypatch.setattr(compiler, "_worker", worker)
    script = tmp_path / "with spaces.py"
    script.write_text("import os, sys\nsys.stdin.readline()\nsys.stdin.readline()\nos.abort()\n")
    monkeypatch.setattr(compiler, "_SCRIPT", script)
    (found,) = compiled([DOUBLED], SM_90)
    assert found == "doubled does not compile for sm_90: the compiler ended by SIGABRT"
    monkeypatch.undo()
    monkeypatch.setattr(compiler, "_worker", worker)
    assert isinstance(compiled([DOUBLED], SM_90)[0], CompiledFacts)
    assert worker._process is not None
    os.kill(worker._process.pid, signal.SIGKILL)
    worker._process.wait()
    assert isinstance(compiled([DOUBLED], SM_90)[0], CompiledFacts)
    worker.stop()


def test_a_process_that_does_not_answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    worker = compiler._Worker()
    monkeypatch.setattr(compiler, "_worker", worker)
    script = tmp_path / "slow.py"
    script.write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setattr(compiler, "_SCRIPT", script)
    monkeypatch.setattr(compiler, "_SECONDS", 0.2)
    (found,) = compiled([DOUBLED], SM_90)
    assert isinstance(found, str)
    assert "took more than 0" in found
    assert worker._process is None


def test_a_cache_folder_with_spaces(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PRECC_CACHE", str(tmp_path / "my cache"))
    worker = compiler._Worker()
    monkeypatch.setattr(compiler, "_worker", worker)
    assert isinstance(compiled([DOUBLED], SM_90)[0], CompiledFacts)
    assert any((tmp_path / "my cache" / "triton" / "compiled").iterdir())
    worker.stop()


def test_processes_that_compile_one_kernel_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PRECC_CACHE", str(tmp_path))
    workers = compiler._Worker(), compiler._Worker()
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda own: own.ask(compiler._question(DOUBLED, SM_90)), workers))
    assert "facts" in answers[0]
    assert answers[0] == answers[1]
    for worker in workers:
        worker.stop()


def test_an_answer_that_nobody_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = compiler._Worker()
    monkeypatch.setattr(compiler, "_worker", worker)

    def interrupted(*_: object) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr(worker, "_line", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compiled([product("bf16")], SM_90)
    monkeypatch.undo()
    monkeypatch.setattr(compiler, "_worker", worker)
    (facts,) = compiled([DOUBLED], SM_90)
    assert isinstance(facts, CompiledFacts)
    assert facts.instructions == ()
    worker.stop()


def test_the_interpreter_is_no_target() -> None:
    with pytest.raises(BackendError, match="name a GPU, such as sm_90"):
        compiled([DOUBLED], INTERPRETER)
    with pytest.raises(BackendError, match="'sm_70': .*sm_80"):
        device_named("sm_70")
