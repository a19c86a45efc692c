"""The exact solver: a mixed-integer linear program, by HiGHS."""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array, csr_array

from precc.assignment.greedy import Greedy
from precc.assignment.infeasible import infeasible
from precc.assignment.problem import AssignmentProblem, Choices, Floats, Solution
from precc.assignment.quiet_highs import quiet_highs
from precc.errors import InfeasibleError, LimitReachedError, PlanError

__all__ = ["MILP"]

_UNLIMITED = 2**31 - 1


@dataclass(frozen=True, slots=True)
class MILP:
    """The best assignment, proved (`scipy.optimize.milp`, HiGHS; Huangfu and Hall 2018).

    One binary a choice of a group; one number in [0, 1] a pair of choices of an edge, whose sums over either end are
    the choices of the other (the local polytope, which is exact on trees).

    Args:
        gap: relative, at which it stops.
        nodes: of branch and bound, after which it returns the best that it has; None: as many as it takes. The same on
            every machine, as seconds would not be.

    Raises:
        PlanError: the budgets are infeasible, no assignment was found in these nodes, or an option that is none.
    """

    gap: float = 1e-6
    nodes: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.gap, (int, float)) or not 0 <= self.gap < np.inf:
            raise PlanError(f"MILP: gap is relative, 0 or more, not {self.gap!r}")
        if self.nodes is not None and (type(self.nodes) is not int or self.nodes < 1):
            raise PlanError(f"MILP: nodes is a number of at least 1, or None, not {self.nodes!r}")

    def solve(self, problem: AssignmentProblem) -> Solution:
        own = problem.relative
        if not own.has_choices:
            raise infeasible(problem)
        program = _Program.of(own)
        x, bound = self._solved(program, program.costs, own, infeasible(problem))
        return Solution.of(problem, x, bound * problem.unit)

    def least_error(self, problem: AssignmentProblem, cost: float) -> Solution:
        """Found among those that err no more than `Greedy`'s: HiGHS has absolute tolerances, and errors many orders."""
        greedy = Greedy().least_error(problem, cost)
        most = problem.largest_error(greedy.choices)
        if not most:
            return greedy
        own = problem.within(problem.budgets * most).relative
        program = _Program.of(own).with_largest_error(cost / problem.unit)
        x, _ = self._solved(program, np.eye(len(program.costs))[-1], own, infeasible(problem, cost))
        return Solution.of(problem, x, -np.inf)

    def _solved(
        self, program: "_Program", goal: Floats, problem: AssignmentProblem, error: InfeasibleError
    ) -> tuple[Choices, float]:
        """The best choices, and a bound of the goal."""
        with quiet_highs():
            found = milp(
                goal,
                constraints=program.constraints,
                integrality=program.integral,
                bounds=Bounds(0, program.most),
                options={"mip_rel_gap": self.gap, "node_limit": _UNLIMITED if self.nodes is None else self.nodes},
            )
        if found.status == 2:
            raise error
        if found.x is None:
            raise LimitReachedError(f"MILP: no assignment in {self.nodes} nodes ({found.message})")
        choices = found.x[: problem.costs.size].reshape(problem.costs.shape).argmax(1)
        return choices, float(found.mip_dual_bound)


@dataclass(frozen=True, slots=True, eq=False)
class _Program:
    """One variable a choice, then one a pair of choices.

    Args:
        costs: of variables.
        structure: rows with their values: one choice a group, and pairs as choices say.
        errors: of variables, [constraints, variables], whose sums are at most 1, or 0 with a largest error among them.
        integral: 1 of whole numbers.
        most: of each variable.
        limits: of the cost, with a largest error.
    """

    costs: Floats
    structure: tuple[tuple[csr_array, float], ...]
    errors: Floats
    integral: Choices
    most: Floats
    limits: tuple[LinearConstraint, ...] = ()

    @classmethod
    def of(cls, problem: AssignmentProblem) -> "_Program":
        groups, choices = problem.costs.shape
        nodes, pairs = groups * choices, problem.edge_costs.reshape(-1)
        costs = np.concatenate([problem.costs.reshape(-1), pairs])
        allowed, variables = np.isfinite(costs), len(costs)
        one = coo_array(
            (np.ones(nodes), (np.repeat(np.arange(groups), choices), np.arange(nodes))), (groups, variables)
        )
        structure = [(one.tocsr(), 1.0)]
        if len(pairs):
            structure.append((_marginals(problem, nodes, variables), 0.0))
        errors = np.zeros((len(problem.budgets), variables))
        errors[:, :nodes] = problem.errors.reshape(len(problem.budgets), nodes)
        integral = np.concatenate([np.ones(nodes, np.int64), np.zeros(len(pairs), np.int64)])
        return cls(np.where(allowed, costs, 0.0), tuple(structure), errors, integral, allowed.astype(float))

    @property
    def constraints(self) -> list[LinearConstraint]:
        """All of them."""
        found = [LinearConstraint(matrix, value, value) for matrix, value in self.structure]
        if len(self.errors):
            found.append(LinearConstraint(csr_array(self.errors), -np.inf, 0.0 if self.limits else 1.0))
        return [*found, *self.limits]

    def with_largest_error(self, cost: float) -> "_Program":
        """With one more variable, no less than any error; and a limit of the cost."""
        structure = tuple((_widened(matrix), value) for matrix, value in self.structure)
        errors = np.concatenate([self.errors, np.full((len(self.errors), 1), -1.0)], 1)
        costs = np.append(self.costs, 0.0)
        limit = LinearConstraint(csr_array(costs[None] / max(cost, 1e-300)), -np.inf, 1.0)
        return _Program(costs, structure, errors, np.append(self.integral, 0), np.append(self.most, 1.0), (limit,))


def _widened(matrix: csr_array) -> csr_array:
    """With one more variable, which it does not have."""
    return csr_array((matrix.data, matrix.indices, matrix.indptr), shape=(matrix.shape[0], matrix.shape[1] + 1))


def _marginals(problem: AssignmentProblem, nodes: int, variables: int) -> csr_array:
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
    where = (np.concatenate(rows), np.concatenate(columns))
    return coo_array((np.concatenate(values), where), shape=shape).tocsr()
