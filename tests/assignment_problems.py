"""Random problems of assignment, like those of nets: finer formats cost more and err less."""

import numpy as np

from precc.assignment.problem import AssignmentProblem

_BITS = np.array([4.0, 6, 6, 8, 8, 8, 10, 10, 12, 16, 16, 32])
_SIGNIFICAND = np.array([2.0, 4, 3, 5, 4, 3, 6, 5, 8, 11, 8, 24])
TOPOLOGIES = ("none", "casts", "tree", "products")


def random_problem(seed: int, groups: int | None = None, choices: int | None = None) -> AssignmentProblem:
    """Up to 300 groups of up to 12 choices, costs on edges, two errors; some have few groups or narrow budgets."""
    rng = np.random.default_rng(seed)
    groups = int(np.exp(rng.uniform(np.log(3), np.log(300)))) if groups is None else groups
    k = int(rng.integers(2, 13)) if choices is None else choices
    kept = np.sort(rng.choice(12, k, replace=False))
    work = np.exp(rng.normal(0, 1.5, groups))
    costs = work[:, None] * _BITS[kept] * np.exp(rng.normal(0, 0.1, (groups, k)))
    spread = rng.uniform(0.3, 3.0)  # from groups that are much alike to a few that count
    size = np.exp(spread * (rng.normal(0, 1.0, (2, groups)) + 0.5 * rng.normal(0, 1.0, groups)))
    noise = np.exp(rng.normal(0, 0.5, (2, groups, k)))
    errors = size[..., None] * 4.0 ** -_SIGNIFICAND[kept] * noise
    ends = _ends(rng, groups, TOPOLOGIES[seed % len(TOPOLOGIES)])
    cast = work[ends].mean(1) * np.exp(rng.normal(1, 1, len(ends)))
    tables = cast[:, None, None] * (1 - np.eye(k)) * _BITS[kept][:, None] / 8
    least, most = errors.min(2).sum(1), errors[:, np.arange(groups), costs.argmin(1)].sum(1)
    share = rng.uniform(0.02, 0.9, 2)
    budgets = np.maximum(least * 1.02, np.exp((1 - share) * np.log(least) + share * np.log(np.maximum(most, least))))
    return AssignmentProblem(costs, errors, budgets, ends, tables)


def _ends(rng: np.random.Generator, groups: int, topology: str) -> np.ndarray:
    if topology == "none":
        found = []
    elif topology == "casts":  # each reader of a tensor beside its first one
        found = [(k, k - k % 4) for k in range(groups) if k % 4]
    elif topology == "tree":
        found = [(k, int(rng.integers(0, k))) for k in range(1, groups)]
    else:  # three tensors of a layer in pairs, one shared with the layer before
        found = [(k + a, k + b) for k in range(0, groups - 2, 2) for a, b in ((0, 1), (1, 2), (2, 0))]
    return np.array(found, np.int64).reshape(-1, 2)
