"""``precc kernels``: the Triton kernels of a net, compiled for a GPU that need not be there."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from precc.api import compile
from precc.backends.triton.backend import Triton
from precc.backends.triton.compiler import compiled
from precc.backends.triton.device import DEVICES
from precc.backends.triton.facts import CompiledFacts
from precc.backends.triton.kernel_source import KernelSource
from precc.backends.triton.listing import Listing, kernels_for
from precc.commands.command import Command
from precc.commands.factories import add_factory, task_of
from precc.commands.output import note, progress, say
from precc.commands.steps import add_plan, plan_of, tried
from precc.module import PrecisionModule, original
from precc.plan import PrecisionPlan
from precc.task import Task

__all__ = ["KERNELS"]


@dataclass(frozen=True, slots=True)
class _Row:
    """A kernel, and what the compiler made of it or why it made nothing."""

    source: KernelSource
    facts: CompiledFacts | str

    @property
    def problem(self) -> str:
        """A sentence; empty if it is a kernel to use."""
        if isinstance(self.facts, str):
            return self.facts
        spills = self.facts.spills
        return f"{self.source.name} spills {spills} bytes of registers a thread: its tile is too large" * (spills > 0)

    def document(self) -> dict[str, Any]:
        own, facts = self.source, None if isinstance(self.facts, str) else self.facts
        return {
            "name": own.name,
            "nodes": list(own.nodes),
            "slots": list(own.slots),
            "tile": dict(own.tile),
            "num_warps": facts.num_warps if facts else own.num_warps,
            "num_stages": facts.num_stages if facts else own.num_stages,
            "registers": facts and facts.registers,
            "spills": facts and facts.spills,
            "shared_memory": facts and facts.shared_memory,
            "instructions": list(facts.instructions) if facts else [],
            "bytes": own.bytes,
            "flops": own.flops,
            "problem": self.problem,
        }


def _add(parser: argparse.ArgumentParser) -> None:
    add_factory(parser)
    add_plan(parser, "that of the net, which rounds nothing unless it was given one")
    parser.add_argument("--target", choices=list(DEVICES), default="sm_90", help="of the kernels (default: sm_90)")
    parser.add_argument(
        "--force-low",
        action="store_true",
        help="multiply in narrow formats also where the cost model says that bfloat16 is faster",
    )


def _run(chosen: argparse.Namespace) -> int:
    task, device = task_of(chosen), DEVICES[chosen.target]
    plan = None if chosen.plan is None else plan_of(chosen.plan)
    tried(task)
    backend = Triton(target=device, force_low=bool(chosen.force_low))
    listing = kernels_for(_net_of(task, plan, backend), task.inputs, task.named_inputs)
    with progress(chosen, len(listing.kernels)) as bar:
        bar.at("compiling")
        facts = compiled(listing.kernels, device, lambda own: bar.advance(own.name))
    rows = [_Row(*pair) for pair in zip(listing.kernels, facts, strict=True)]
    say(chosen, [row.document() for row in rows], *_tables(rows, listing))
    problems = [row.problem for row in rows if row.problem]
    for problem in problems:
        note(problem)
    return 1 if problems else 0


def _net_of(task: Task, plan: PrecisionPlan | None, backend: Triton) -> PrecisionModule:
    """The net of a task under a plan, or that of a net, by a backend."""
    if not isinstance(task.module, PrecisionModule):
        return compile(task.module, plan=plan, backend=backend)
    return compile(original(task.module), plan=plan or task.module.plan, backend=backend)


def _tables(rows: Sequence[_Row], listing: Listing) -> list[Table]:
    return [_kernels(rows), *([_left(listing)] if listing.left else [])]


def _kernels(rows: Sequence[_Row]) -> Table:
    table = Table("kernel", "nodes", "tile", "warps", "stages", "registers", "spills", "shared", "instructions")
    for row in rows:
        own = row.source
        tile = " ".join(f"{name}={size}" for name, size in own.tile.items())
        compiled = own if isinstance(row.facts, str) else row.facts
        heads = own.name, "\n".join(own.nodes), tile, str(compiled.num_warps), str(compiled.num_stages)
        table.add_row(*heads, *_cells(row.facts))
    return table


def _cells(facts: CompiledFacts | str) -> tuple[str, ...]:
    if isinstance(facts, str):
        return "-", "-", "-", "does not compile"
    return str(facts.registers), str(facts.spills), str(facts.shared_memory), "\n".join(facts.instructions)


def _left(listing: Listing) -> Table:
    table = Table("left to Inductor", "because")
    for name, reason in listing.left:
        table.add_row(name, reason)
    return table


KERNELS = Command(
    "kernels",
    "list the Triton kernels of a net, compiled for a GPU that need not be there",
    "example: precc kernels net.py:factory --plan e4m3/tensor --target sm_90; exit code 1 if a kernel does not compile "
    "or spills registers",
    _add,
    _run,
)
