"""The default solver of assignment against the exact one, and how long it takes.

Random problems (`tests/assignment_problems.py`): up to 300 groups of up to 12 choices, costs on edges (none, casts of
shared tensors, trees, the products of layers), two errors with budgets from narrow to wide. The exact solver stops at a
relative gap of 1e-4, or after a minute. Then 2,000 groups of 12 choices of each kind, and their fronts. Writes
benchmarks/results/assignment.json.

usage: python benchmarks/assignment.py [--problems N]
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from environment import environment
from rich.progress import track

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from precc.assignment.front import front
from precc.assignment.greedy import Greedy
from precc.assignment.lagrangian import Lagrangian
from precc.assignment.milp import MILP
from precc.assignment.problem import AssignmentProblem, Solution
from precc.assignment.solver import Solver
from precc.errors import InfeasibleError
from precc.files import write_whole
from tests.assignment_problems import TOPOLOGIES, random_problem

RESULT = Path(__file__).resolve().parent / "results" / "assignment.json"


def solved(solver: Solver, problem: AssignmentProblem) -> tuple[Solution | None, float]:
    """What a solver finds, None if it says that nothing is feasible, and the seconds that it takes."""
    started = time.perf_counter()
    try:
        found = solver.solve(problem)
    except InfeasibleError:
        found = None
    return found, time.perf_counter() - started


def compared(seed: int) -> dict[str, Any]:
    problem = random_problem(seed)
    (exact, exact_seconds), (own, seconds) = solved(MILP(1e-4, 60), problem), solved(Lagrangian(), problem)
    greedy, _ = solved(Greedy(), problem)
    feasible = own is not None and bool(problem.is_feasible(own.choices))
    return {
        "seed": seed,
        "groups": problem.groups,
        "choices": problem.costs.shape[1],
        "edges": TOPOLOGIES[seed % len(TOPOLOGIES)],
        "exact_is_feasible": exact is not None,
        "feasible": feasible,
        "cost_over_exact": own.cost / exact.cost - 1 if own and exact else None,
        "greedy_over_exact": greedy.cost / exact.cost - 1 if greedy and exact else None,
        "gap": own.gap if own else None,
        "seconds": seconds,
        "exact_seconds": exact_seconds,
    }


def large(seed: int) -> dict[str, Any]:
    problem = random_problem(seed, 2_000, 12)
    timed = [solved(Lagrangian(), problem) for _ in range(5)]
    started = time.perf_counter()
    points = len(front(problem))
    own = timed[0][0]
    return {
        "seed": seed,
        "edges": TOPOLOGIES[seed % len(TOPOLOGIES)],
        "gap": own.gap if own else None,
        "seconds": statistics.median(seconds for _, seconds in timed),
        "front_points": points,
        "front_seconds": time.perf_counter() - started,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=500)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    larger = [large(seed) for seed in track(range(8), description="2,000 groups")]
    rows = [compared(seed) for seed in track(range(chosen.problems), description="problems")]
    over = sorted(own["cost_over_exact"] for own in rows if own["cost_over_exact"] is not None)
    greedy = sorted(own["greedy_over_exact"] for own in rows if own["greedy_over_exact"] is not None)
    summary = {
        "problems": len(rows),
        "feasible": sum(own["exact_is_feasible"] for own in rows),
        "feasible_but_not_found": sum(own["exact_is_feasible"] and not own["feasible"] for own in rows),
        "cost_over_exact": {"median": statistics.median(over), "largest": over[-1]},
        "greedy_over_exact": {"median": statistics.median(greedy), "largest": greedy[-1]},
        "beyond_1_percent": sum(own > 0.01 for own in over),
        "greedy_beyond_1_percent": sum(own > 0.01 for own in greedy),
        "seconds": {
            "median": statistics.median(own["seconds"] for own in rows),
            "largest": max(own["seconds"] for own in rows),
            "exact_median": statistics.median(own["exact_seconds"] for own in rows),
            "exact_largest": max(own["exact_seconds"] for own in rows),
        },
        "2000_groups": {
            "seconds": max(own["seconds"] for own in larger),
            "front_seconds": max(own["front_seconds"] for own in larger),
        },
    }
    document = {"environment": environment(), "summary": summary, "large": larger, "rows": rows}
    write_whole(RESULT, (json.dumps(document, indent=1) + "\n").encode())
    print(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
