"""The exact solver: a mixed-integer linear program, by HiGHS."""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from precc.assignment.infeasible import infeasible
from precc.assignment.problem import AssignmentProblem, Choices, Floats, Solution
from precc.errors import PlanError

__all__ = ["MILP"]


@dataclass(frozen=True, slots=True)
class MILP:
    """The best assignment, proved (`scipy.optimize.milp`, HiGHS; Huangfu and Hall 2018).

    One binary a choice of a group; one number in [0, 1] a pair of choices of an edge, whose sums over either end are
    the choices of the other (the local polytope, which is exact on trees).

    Args:
        gap: relative, at which it stops.
        seconds: after which it returns the best that it has; None: however long it takes.

    Raises:
        PlanError: the budgets are infeasible, or no assignment was found in time.
    """

    gap: float = 1e-6
    seconds: float | None = None

    def solve(self, problem: AssignmentProblem) -> Solution:
        own = problem.relative
        if not np.isfinite(own.costs).any(1).all():
            raise infeasible(problem)
        program = _Program.of(own)
        found = milp(
            program.costs,
            constraints=program.constraints,
            integrality=program.integral,
            bounds=Bounds(0, program.most),
            options={"mip_rel_gap": self.gap, "time_limit": np.inf if self.seconds is None else self.seconds},
        )
        if found.status == 2:
            raise infeasible(problem)
        if found.x is None:
            raise PlanError(f"MILP: no assignment in {self.seconds} s ({found.message})")
        choices = found.x[: own.costs.size].reshape(own.costs.shape).argmax(1)
        return Solution.of(problem, choices, float(found.mip_dual_bound))


@dataclass(frozen=True, slots=True, eq=False)
class _Program:
    costs: Floats
    constraints: list[LinearConstraint]
    integral: Choices
    most: Floats

    @classmethod
    def of(cls, problem: AssignmentProblem) -> "_Program":
        groups, choices = problem.costs.shape
        nodes, edges = groups * choices, len(problem.ends)
        pairs = problem.edge_costs.reshape(-1)
        costs = np.concatenate([problem.costs.reshape(-1), pairs])
        allowed = np.isfinite(costs)
        integral = np.concatenate([np.ones(nodes, np.int64), np.zeros(len(pairs), np.int64)])
        variables = len(costs)
        one = _rows(np.repeat(np.arange(groups), choices), np.arange(nodes), (groups, variables))
        found = [LinearConstraint(one, 1, 1)]
        if len(problem.budgets):
            errors = np.zeros((len(problem.budgets), variables))
            errors[:, :nodes] = problem.errors.reshape(len(problem.budgets), -1)
            found.append(LinearConstraint(coo_array(errors), -np.inf, problem.budgets))
        if edges:
            found.append(LinearConstraint(_marginals(problem, nodes, variables), 0, 0))
        return cls(np.where(allowed, costs, 0.0), found, integral, allowed.astype(float))


def _marginals(problem: AssignmentProblem, nodes: int, variables: int) -> coo_array:
    """Sums of pairs over either end, less the choice of the other: one row an edge, end and choice."""
    edges, k = len(problem.ends), problem.costs.shape[1]
    edge, first, second = (own.reshape(-1) for own in np.indices((edges, k, k)))
    pair = nodes + np.arange(edges * k * k)
    e, c = (own.reshape(-1) for own in np.indices((edges, k)))
    rows, columns, values = [], [], []
    for end, choice in ((0, first), (1, second)):
        rows += [(2 * edge + end) * k + choice, (2 * e + end) * k + c]
        columns += [pair, problem.ends[e, end] * k + c]
        values += [np.ones(len(pair)), -np.ones(len(e))]
    shape = (2 * edges * k, variables)
    return coo_array((np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))), shape=shape)


def _rows(rows: Floats, columns: Floats, shape: tuple[int, int]) -> coo_array:
    return coo_array((np.ones(len(rows)), (rows, columns)), shape=shape)
