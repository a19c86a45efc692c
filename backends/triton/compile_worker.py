"""The process that compiles kernels: run as a script, with Triton and without precc, so that it starts in a moment.

It reads one JSON document a line from stdin and answers each by one on stdout: ``{"facts": {...}}`` or
``{"error": "..."}``. It is apart because the interpreter, which is chosen when Triton is imported, makes kernels that
cannot be compiled, and because LLVM ends the process in which something is wrong.
"""

import importlib.util
import json
import os
import re
import struct
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from typing import Any, TextIO

#: ``mma.sync.aligned...``, ``wgmma.mma_async...``, ``tcgen05.mma...``: PTX ISA, "Matrix multiply-accumulate".
_OPCODE = re.compile(r"(?<![\w.])(?:mma\.|wgmma\.mma_async\.|tcgen05\.mma\.)[\w.:]+")
_USAGE = re.compile(r"REG:(\d+).*?STACK:(\d+).*?LOCAL:(\d+)")
_SPILLED = re.compile(r"(\d+) bytes spill stores, (\d+) bytes spill loads")


def main() -> None:
    """Answer until stdin ends. What compilers print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    first = json.loads(sys.stdin.readline())
    sys.path[:] = first["path"]
    for line in sys.stdin:
        _tell(answers, _answer(json.loads(line)))


def _tell(answers: TextIO, document: Mapping[str, Any]) -> None:
    answers.write(json.dumps(document) + "\n")
    answers.flush()


def _answer(wanted: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return {"facts": _facts(wanted)}
    except Exception as error:  # of all kinds: Triton's, LLVM's, ptxas's, and those of a wrong text
        return {"error": f"{type(error).__name__}: {error}".strip()}


def _facts(wanted: Mapping[str, Any]) -> dict[str, Any]:
    from triton.compiler import ASTSource

    signature = {**dict(wanted["arguments"]), **dict.fromkeys(wanted["tile"], "constexpr")}
    aligned = [n for n, (_, kind) in enumerate(wanted["arguments"]) if kind.startswith("*")]
    source = ASTSource(
        fn=_function(wanted["file"], wanted["name"]),
        signature=signature,
        constexprs=wanted["tile"],
        attrs={(n,): [["tt.divisibility", 16]] for n in aligned},
    )
    made = _compiled(source, wanted["capability"], wanted["options"])
    ptx = made.asm["ptx"]
    registers, spills = _usage(made.asm["cubin"], ptx)
    opcodes = sorted(set(_OPCODE.findall(ptx)))
    shared = made.metadata.shared
    return {
        "registers": registers,
        "spills": spills,
        "shared_memory": shared,
        "instructions": opcodes,
        "ptx": ptx,
        "num_warps": wanted["options"]["num_warps"],
        "num_stages": wanted["options"]["num_stages"],
    }


def _compiled(source: Any, capability: int, options: Mapping[str, Any]) -> Any:
    """What Triton makes of a source, or has in its cache; anew where a file of that was cut."""
    import triton
    from triton.backends.compiler import GPUTarget

    target = GPUTarget("cuda", capability, 32)
    try:
        made = triton.compile(source, target=target, options=options)
        if _is_whole(made.asm["ptx"], made.asm["cubin"]):
            return made
    except ValueError:  # of what is no JSON document, or says so again
        pass
    with triton.knobs.compilation.scope():
        triton.knobs.compilation.always_compile = True
        return triton.compile(source, target=target, options=options)


def _is_whole(ptx: str, cubin: bytes) -> bool:
    """Whether the blocks of a text are closed, and an ELF file has the tables that its header names."""
    closed = ptx.rstrip().endswith("}") and ptx.count("{") == ptx.count("}")
    if not closed or ".entry" not in ptx or len(cubin) < 64:
        return False
    header: tuple[int, ...] = struct.unpack_from("<QQIHHHHH", cubin, 32)
    programs, sections, _, _, of_program, n_programs, of_section, n_sections = header
    return max(programs + of_program * n_programs, sections + of_section * n_sections) <= len(cubin)


def _function(path: str, name: str) -> Any:
    spec = importlib.util.spec_from_file_location("kernel", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)


def _usage(cubin: bytes, ptx: str) -> tuple[int, int]:
    """Registers, and bytes spilled. Only where there is a stack frame can something be spilled to it."""
    from triton import knobs

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        said = _said([knobs.nvidia.cuobjdump.path, "-res-usage", file.name])
    found = _USAGE.search(said)
    if found is None:
        raise RuntimeError(f"cuobjdump says nothing of registers: {said[-500:]}")
    registers, stack, local = map(int, found.groups())
    return registers, _spilled(ptx) if stack or local else 0


def _spilled(ptx: str) -> int:
    """Bytes that ptxas says it spills: a frame also holds what it was asked to put there."""
    from triton.backends.nvidia.compiler import get_ptxas

    arch = re.search(r"^\s*\.target\s+(\w+)", ptx, re.MULTILINE)
    assert arch is not None
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        ptxas = get_ptxas(int(re.sub(r"\D", "", arch[1]))).path
        said = _said([ptxas, "-v", "--fmad=false", f"--gpu-name={arch[1]}", file.name, "-o", os.devnull])
    return max((max(map(int, pair)) for pair in _SPILLED.findall(said)), default=0)


def _said(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=600)
    if done.returncode:
        raise RuntimeError(f"{os.path.basename(command[0])} failed: {(done.stderr or done.stdout).strip()[-500:]}")
    return done.stdout + done.stderr


if __name__ == "__main__":
    main()
