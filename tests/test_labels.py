"""Labels, against the exact solver; pairs of changes, against all of them."""

from dataclasses import replace

import numpy as np
import pytest

from precc.assignment.columns import Columns
from precc.assignment.elimination import cheapest, finest
from precc.assignment.exchange import improved
from precc.assignment.labels import best_of_labels
from precc.assignment.lagrangian import least_of
from precc.assignment.milp import MILP
from precc.assignment.pairs import Pairs
from precc.assignment.problem import AssignmentProblem, Choices
from tests.assignment_problems import random_problem


def in_pairs(seed: int) -> AssignmentProblem:
    """With edges that tie two groups each, and one or two errors."""
    problem = random_problem(seed, groups=14, choices=6)
    ends = np.arange(14).reshape(-1, 2)
    tables = np.random.default_rng(seed).random((7, 6, 6)) * problem.costs.mean()
    tables[:, 0, 5] = np.inf
    count = 1 + seed % 2
    return AssignmentProblem(problem.costs, problem.errors[:count], problem.budgets[:count] * 1.3, ends, tables)


@pytest.mark.parametrize("seed", range(24))
def test_the_cheapest_assignment_is_found(seed: int) -> None:
    problem = in_pairs(seed)
    exact = MILP(1e-9).solve(problem)
    own = problem.relative
    prices = Columns.of(own).cheapest(1e-4, 25).prices
    limits = np.concatenate([[exact.cost / problem.unit * 1.05], np.ones(len(prices))])
    found = best_of_labels(own, prices, limits)
    assert found is not None
    assert problem.is_feasible(found)
    assert float(problem.cost_of(found)) <= exact.cost * (1 + 1e-6)


@pytest.mark.parametrize("seed", range(24))
def test_the_least_error_is_found(seed: int) -> None:
    problem = in_pairs(seed)
    low, high = (float(problem.cost_of(own(problem))) for own in (cheapest, finest))
    cost = low + 0.3 * (high - low)
    own, limit = problem.relative_without_limits, cost / problem.unit
    columns = Columns.of(own)
    prices = columns.least(limit, 1e-4, 25).prices
    start = least_of(columns, limit, prices)
    assert start is not None
    limits = np.concatenate([[limit], np.full(len(prices), own.largest_error(start))])
    found = best_of_labels(own, prices, limits, finest=True)
    assert found is not None
    assert float(problem.cost_of(found)) <= cost * (1 + 1e-9)
    best = MILP(1e-6).least_error(problem, cost)
    assert problem.largest_error(found) <= problem.largest_error(best.choices) * (1 + 1e-6)


def test_prices_do_not_decide_what_is_found() -> None:
    problem = in_pairs(2)
    own = problem.relative
    limits = np.concatenate([[float(own.cost_of(finest(own)))], np.ones(1)])
    found = [best_of_labels(own, np.array([price]), limits) for price in (0.0, 0.3, 1.0, 30.0)]
    assert all((one == found[0]).all() for one in found if one is not None and found[0] is not None)
    assert found[0] is not None


def test_nothing_is_found_of_parts_that_are_too_large_or_limits_that_none_keeps() -> None:
    tree = random_problem(2, groups=30, choices=6)
    limits = np.array([np.inf, 1.0, 1.0])
    assert best_of_labels(tree.relative, np.ones(2), limits) is None
    problem = in_pairs(0)
    assert best_of_labels(problem.relative, np.ones(1), np.array([1e-9, 1.0])) is None


@pytest.mark.parametrize("seed", range(16))
def test_exchange_finds_what_it_finds_among_all_pairs(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = random_problem(seed, groups=30)
    own = problem.relative
    columns = Columns.of(own)
    prices = columns.cheapest(1e-3, 5).prices
    starts = [x for x in columns.found if own.is_feasible(x)][:2] or [finest(own)]
    found = [improved(own, x, prices) for x in starts]

    def every(self: Pairs, values: object, most: float) -> Pairs:
        count = len(self.chosen)
        return replace(self, chosen=np.triu(np.ones((count, count), bool), 1))

    monkeypatch.setattr(Pairs, "with_sums_within", every)
    among_all: list[Choices] = [improved(own, x, prices) for x in starts]
    assert all((a == b).all() for a, b in zip(found, among_all, strict=True))
