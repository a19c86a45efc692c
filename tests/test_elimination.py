"""Elimination, against all assignments."""

import itertools

import numpy as np
import pytest

from precc.assignment.elimination import Elimination
from precc.assignment.problem import Choices, Floats


def value(costs: Floats, ends: Choices, tables: Floats, x: tuple[int, ...]) -> float:
    own = sum(costs[i, k] for i, k in enumerate(x))
    return float(own + sum(tables[e, x[a], x[b]] for e, (a, b) in enumerate(ends)))


def random_graph(seed: int) -> tuple[int, int, Choices, Floats, Floats]:
    """Up to 6 groups of up to 3 choices, any edges between them, some pairs not allowed."""
    rng = np.random.default_rng(seed)
    groups, choices = int(rng.integers(1, 7)), int(rng.integers(1, 4))
    pairs = [pair if rng.random() < 0.5 else pair[::-1] for pair in itertools.combinations(range(groups), 2)]
    kept = rng.permutation(len(pairs))[: rng.integers(0, len(pairs) + 1)]
    ends = np.array([pairs[k] for k in kept], np.int64).reshape(-1, 2)
    tables = rng.random((len(ends), choices, choices))
    tables[rng.random(tables.shape) < 0.05] = np.inf
    return groups, choices, ends, tables, rng.random((3, groups, choices))


@pytest.mark.parametrize("block", range(10))
def test_it_finds_the_least_cost(block: int) -> None:
    exact = 0
    for seed in range(40 * block, 40 * block + 40):
        groups, choices, ends, tables, costs = random_graph(seed)
        held = np.random.default_rng(seed).integers(0, choices, groups)
        elimination = Elimination(groups, ends, tables)
        found, values = elimination.minimise(costs, held)
        for own, x, least in zip(costs, found, values, strict=True):
            assert value(own, ends, tables, tuple(x)) == pytest.approx(least)
            if elimination.is_exact:
                every = itertools.product(range(choices), repeat=groups)
                assert least == pytest.approx(min(value(own, ends, tables, one) for one in every))
                exact += 1
    assert exact > 60


def test_where_every_group_has_three_edges_one_is_held() -> None:
    ends = np.array(list(itertools.combinations(range(4), 2)))
    tables, costs = np.random.default_rng(0).random((6, 2, 2)), np.zeros((1, 4, 2))
    elimination = Elimination(4, ends, tables)
    assert not elimination.is_exact
    for held in (0, 1):
        found, _ = elimination.minimise(costs, np.full(4, held))
        assert held in found[0]


def test_the_products_of_a_layer_are_exact() -> None:
    """fprop, dgrad and wgrad share three tensors in pairs; a tensor is shared by several layers."""
    layers = [(0, 3 * k + 1, 3 * k + 2) for k in range(5)]
    ends = np.array([pair for layer in layers for pair in itertools.combinations(layer, 2)])
    assert Elimination(18, ends, np.zeros((len(ends), 3, 3))).is_exact
