"""Solvers, against the exact one and against their own promises."""

import itertools
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from precc.assignment import quiet_highs
from precc.assignment.elimination import cheapest, finest
from precc.assignment.exchange import improved
from precc.assignment.front import front
from precc.assignment.greedy import Greedy, RandomChoice
from precc.assignment.lagrangian import Lagrangian
from precc.assignment.milp import MILP
from precc.assignment.problem import AssignmentProblem
from precc.assignment.solver import Solver
from precc.errors import InfeasibleError, PlanError
from tests.assignment_problems import random_problem

SOLVERS: list[Solver] = [Lagrangian(), MILP(), Greedy(), RandomChoice(3)]


def all_assignments(problem: AssignmentProblem) -> np.ndarray:
    return np.array(list(itertools.product(range(problem.costs.shape[1]), repeat=problem.groups)))


@pytest.mark.parametrize("seed", range(40))
def test_the_default_is_within_a_percent_of_the_best(seed: int) -> None:
    """benchmarks/assignment.py does so 500 times, up to 300 groups."""
    problem = random_problem(seed, groups=seed % 20 + 3)
    try:
        best = MILP().solve(problem)
    except InfeasibleError:
        with pytest.raises(InfeasibleError):
            Lagrangian().solve(problem)
        return
    found = Lagrangian().solve(problem)
    assert problem.is_feasible(found.choices)
    assert found.cost <= best.cost * 1.01
    assert found.bound <= best.cost * (1 + 1e-5)


@pytest.mark.parametrize("seed", range(20))
def test_the_exact_solver_is_exact(seed: int) -> None:
    problem = random_problem(seed, groups=4, choices=4)
    every = all_assignments(problem)
    feasible = problem.is_feasible(every)
    if not feasible.any():
        with pytest.raises(InfeasibleError):
            MILP().solve(problem)
        return
    least = problem.cost_of(every)[feasible].min()
    assert MILP().solve(problem).cost == pytest.approx(least, rel=1e-5)
    error = min(map(problem.largest_error, every[problem.cost_of(every) <= 1.3 * least]))
    found = MILP().least_error(problem, 1.3 * least)
    assert problem.largest_error(found.choices) == pytest.approx(error, rel=1e-4)
    assert problem.largest_error(Lagrangian().least_error(problem, 1.3 * least).choices) <= 1.3 * error


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda own: type(own).__name__)
@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_each_keeps_its_promises(solver: Solver, seed: int) -> None:
    problem = random_problem(seed, groups=30, choices=6)
    found = solver.solve(problem)
    assert problem.is_feasible(found.choices)
    assert found.cost == pytest.approx(problem.cost_of(found.choices))
    for factor in (0.9, 1.2):
        finer = solver.least_error(problem, factor * found.cost)
        assert finer.cost <= factor * found.cost * (1 + 1e-9)


def test_chance_is_worse_and_differs_with_the_seed() -> None:
    problem = random_problem(4, groups=100, choices=8)
    best = Lagrangian().solve(problem).cost
    costs = [RandomChoice(seed).solve(problem).cost for seed in range(3)]
    assert len(set(costs)) == 3
    assert min(costs) > 1.05 * best


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda own: type(own).__name__)
def test_what_is_infeasible_says_why(solver: Solver) -> None:
    problem = random_problem(0, groups=10, choices=4)
    least = problem.errors.min(2).sum(1)
    with pytest.raises(InfeasibleError, match="error 1: at least"):
        solver.solve(problem.within([np.inf, least[1] / 2]))
    with pytest.raises(InfeasibleError, match="costs"):
        solver.least_error(problem, problem.costs.min(1).sum() / 2)


def test_budgets_that_limit_nothing_and_budgets_of_zero() -> None:
    problem = random_problem(4, groups=20, choices=5)
    cheapest = Lagrangian().solve(problem.within([np.inf, np.inf]))
    assert cheapest.cost == pytest.approx(problem.costs.min(1).sum())
    errors = problem.errors.copy()
    errors[:, :, -1] = 0.0
    exact = replace(problem, errors=errors, budgets=np.zeros(2))
    assert (Lagrangian().solve(exact).choices == 4).all()


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda own: type(own).__name__)
@pytest.mark.parametrize("seed", [5, 6, 7])
def test_pairs_that_are_not_allowed_are_not_chosen(solver: Solver, seed: int) -> None:
    """The cheapest choice of each group is allowed beside itself alone, and so is not that of all groups."""
    problem = random_problem(seed, groups=20, choices=4)
    tables, costs = problem.edge_costs.copy(), problem.costs.copy()
    tables[:, 0, 1:] = tables[:, 1:, 0] = np.inf
    costs[::2, 0] = np.inf
    own = replace(problem, tables=tables, costs=costs)
    found = solver.solve(own)
    assert np.isfinite(found.cost)
    assert np.isfinite(solver.least_error(own, found.cost).cost)


@pytest.mark.parametrize("seed", [3, 4, 5, 6])
def test_the_front(seed: int) -> None:
    problem = random_problem(seed, groups=40, choices=8)
    found = front(problem, 12)
    costs, errors = [own.cost for own in found], [problem.largest_error(own.choices) for own in found]
    assert costs == sorted(costs)
    assert errors == sorted(errors, reverse=True)
    assert len(found) >= 6
    assert costs[0] <= 1.05 * problem.cost_of(problem.costs.argmin(1))
    middle = found[len(found) // 2]
    exact = MILP(1e-3).least_error(problem, middle.cost)
    assert problem.largest_error(middle.choices) <= 1.5 * problem.largest_error(exact.choices)


def test_problems_that_make_no_sense() -> None:
    costs, errors = np.ones((2, 3)), np.ones((1, 2, 3))
    with pytest.raises(PlanError, match="arrays of"):
        AssignmentProblem(costs, errors, np.ones(2))
    with pytest.raises(PlanError, match="0 or more"):
        AssignmentProblem(costs, -errors, np.ones(1))
    with pytest.raises(PlanError, match="finite cost"):
        AssignmentProblem(costs * np.inf, errors, np.ones(1))


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_the_unit_of_costs_does_not_matter(solver: Solver, seed: int) -> None:
    """Joules and seconds are far below the tolerances of HiGHS, which are absolute."""
    problem = random_problem(seed, groups=8, choices=4)
    solved = solver.solve(problem)
    limit = 0.7 * float(problem.cost_of(finest(problem))) + 0.3 * float(problem.cost_of(cheapest(problem)))
    least = solver.least_error(problem, limit)
    for unit in (2.0**-60, 2.0**-40, 2.0**40):
        other = replace(problem, costs=problem.costs * unit, tables=problem.edge_costs * unit)
        found = solver.solve(other)
        assert (found.choices == solved.choices).all()
        assert found.cost == solved.cost * unit
        assert found.bound == pytest.approx(solved.bound * unit)
        assert (solver.least_error(other, limit * unit).choices == least.choices).all()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Lagrangian(gap=-1),
        lambda: Lagrangian(most=float("nan")),
        lambda: Lagrangian(rounds=2.5),  # type: ignore[arg-type]
        lambda: MILP(gap="x"),  # type: ignore[arg-type]
        lambda: MILP(nodes=0),
        lambda: RandomChoice(-1),
    ],
)
def test_options_of_solvers_are_checked(make: Callable[[], Solver]) -> None:
    with pytest.raises(PlanError):
        make()


def tied(problem: AssignmentProblem) -> AssignmentProblem:
    """With every second group alike the one before, as infinite costs of pairs say it."""
    k = problem.costs.shape[1]
    ends = np.array([(group, group + 1) for group in range(0, problem.groups // 2 * 2, 2)], np.int64)
    table = np.where(np.eye(k) > 0, 0.0, np.inf)
    return replace(problem, ends=ends, tables=np.broadcast_to(table, (len(ends), k, k)).copy())


@pytest.mark.parametrize("seed", range(0, 24, 2))
def test_least_errors_of_tied_groups_are_near_the_best(seed: int) -> None:
    """Exchange alone, which moves two groups at a time, was up to 1.4 times as far (squares of errors)."""
    problem = tied(random_problem(seed, groups=20 + seed))
    low, high = (float(problem.cost_of(own(problem))) for own in (cheapest, finest))
    cost = low + 0.2 * (high - low)
    found, best = (own.least_error(problem, cost).choices for own in (Lagrangian(), MILP(1e-3)))
    assert float(problem.cost_of(found)) <= cost * (1 + 1e-9)
    assert problem.largest_error(found) <= 1.1 * problem.largest_error(best)


def test_two_groups_change_for_what_their_edge_saves() -> None:
    """Each change by itself costs 11 more, and both together 8 less: it is the edge that says so."""
    costs = np.array([[0.0, 1.0], [0.0, 1.0]])
    tables = np.array([[[10.0, 20.0], [20.0, 0.0]]])
    problem = AssignmentProblem(costs, np.zeros((1, 2, 2)), np.ones(1), np.array([[0, 1]]), tables)
    found = improved(problem, np.array([0, 0]), np.zeros(1))
    assert found.tolist() == [1, 1]
    assert problem.cost_of(found) == 2.0


def test_two_groups_stay_where_their_edge_costs_more() -> None:
    """One may save 1, if another one mends its error for 0.5; but such a pair costs 5 on the edge."""
    costs = np.array([[2.0, 1.0, 2.5], [2.0, 1.0, 2.5]])
    tables = np.zeros((1, 3, 3))
    tables[0, 1, 2] = tables[0, 2, 1] = 5.0
    errors = np.array([[[0.2, 0.9, 0.0], [0.2, 0.9, 0.0]]])
    problem = AssignmentProblem(costs, errors, np.ones(1), np.array([[0, 1]]), tables)
    assert improved(problem, np.array([0, 0]), np.ones(1), changes=1).tolist() == [0, 0]


def _printed(code: str) -> str:
    """By a process of its own, which has one thread."""
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_highs_says_nothing() -> None:
    """A problem at which HiGHS 1.12 prints, as it repairs a solution."""
    code = """
from precc.assignment.elimination import cheapest, finest
from precc.assignment.milp import MILP
from tests.assignment_problems import random_problem
problem = random_problem(163, groups=8, choices=5)
least, most = (float(problem.cost_of(find(problem))) for find in (cheapest, finest))
MILP(1e-3).least_error(problem, least + 0.7 * (most - least))
"""
    assert _printed(code) == ""


#: The module alone: what else precc imports takes seconds.
_QUIET = f"import runpy\nquiet_highs = runpy.run_path({quiet_highs.__file__!r})['quiet_highs']\n"
_PRINTING = f"""
import ctypes, os
{_QUIET}
def fails():
    with quiet_highs():
        os.write(1, b"before\\n")
        ctypes.CDLL(None).puts(b"HighsMipSolverData::transformNewIntegerFeasibleSolution tmpSolver.run();")
        ctypes.CDLL(None).puts(b"after")
        raise ValueError
try:
    fails()
except ValueError:
    os.write(1, b"end\\n")
"""


def test_what_others_print_meanwhile_is_kept() -> None:
    assert _printed(_PRINTING) == "before\nafter\nend\n"


def test_beside_other_threads_nothing_is_caught() -> None:
    beside = "import threading\nstop = threading.Event()\nthreading.Thread(target=stop.wait).start()\n"
    assert "tmpSolver" in _printed(f"{beside}{_PRINTING}stop.set()")


def test_without_a_standard_output() -> None:
    _printed(f"{_QUIET}import os\nos.close(1)\nwith quiet_highs(): pass")
