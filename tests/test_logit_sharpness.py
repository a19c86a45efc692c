"""The closed form, against all corners of the box and against gradient ascent in it."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from precc.control.logit_sharpness import logit_sharpness
from precc.errors import AnalysisError


def by_corners(logits: Tensor, target: int, epsilon: float) -> float:
    """Of one position, in float64."""
    y = logits.double()
    reach = epsilon * (y.abs() + 1)
    goal = torch.tensor(target)
    losses = [
        float(F.cross_entropy(y + torch.tensor(signs, dtype=torch.float64) * reach, goal))
        for signs in itertools.product((-1.0, 1.0), repeat=len(y))
    ]
    before = float(F.cross_entropy(y, goal))
    return 100 * (max(losses) - before) / (1 + before)


def by_ascent(logits: Tensor, targets: Tensor, epsilon: float) -> float:
    """Projected gradient ascent with a long step, so that it runs into a corner."""
    y = logits.double()
    reach = epsilon * (y.abs() + 1)
    z = torch.zeros_like(y, requires_grad=True)
    for _ in range(20):
        (slope,) = torch.autograd.grad(F.cross_entropy(y + z, targets), z)
        with torch.no_grad():
            z.add_(slope * 1e12).clamp_(-reach, reach)
    before = float(F.cross_entropy(y, targets))
    return 100 * (float(F.cross_entropy(y + z, targets).detach()) - before) / (1 + before)


def test_by_hand() -> None:
    """Logits 0 and 0: the box is +-1/2, the corner (-1/2, 1/2): ln(1 + e) - ln 2."""
    found = logit_sharpness(torch.zeros(2, dtype=torch.float64), torch.tensor(0), 0.5)
    assert found == pytest.approx(100 * math.log((1 + math.e) / 2) / (1 + math.log(2)))


@given(
    st.lists(st.floats(-5, 5, width=32), min_size=2, max_size=5),
    st.integers(0, 4),
    st.sampled_from([1e-3, 5e-4, 0.1, 1.0]),
)
def test_no_corner_is_higher(numbers: list[float], target: int, epsilon: float) -> None:
    logits, target = torch.tensor(numbers, dtype=torch.float64), target % len(numbers)
    found = logit_sharpness(logits, torch.tensor(target), epsilon)
    assert found == pytest.approx(by_corners(logits, target, epsilon), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_gradient_ascent_gets_there_and_not_beyond(seed: int) -> None:
    torch.manual_seed(seed)
    logits, targets = 3 * torch.randn(7, 10), torch.randint(10, (7,))
    found = logit_sharpness(logits, targets)
    assert found == pytest.approx(by_ascent(logits, targets, 5e-4), rel=1e-5)
    y = logits.double()
    for _ in range(50):  # and no point inside is higher
        z = 5e-4 * (y.abs() + 1) * (2 * torch.rand_like(y) - 1)
        before = F.cross_entropy(y, targets)
        inside = 100 * (F.cross_entropy(y + z, targets) - before) / (1 + before)
        assert float(inside) < found


def test_a_planted_defect_is_found() -> None:
    """The corner with the target's logit raised, a wrong sign, is lower than what the corners give."""
    logits = torch.tensor([1.0, 2.0, -1.0], dtype=torch.float64)
    wrong = logits + 0.1 * (logits.abs() + 1)
    before = F.cross_entropy(logits, torch.tensor(0))
    assert float(100 * (F.cross_entropy(wrong, torch.tensor(0)) - before) / (1 + before)) < 0.9 * by_corners(
        logits, 0, 0.1
    )


def test_any_leading_shape_and_the_mean_of_positions() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(2, 3, 4, 5), torch.randint(5, (2, 3, 4))
    whole = logit_sharpness(logits, targets)
    assert whole == pytest.approx(logit_sharpness(logits.reshape(-1, 5), targets.flatten()))
    parts = [logit_sharpness(own, goal) for own, goal in zip(logits.reshape(-1, 5), targets.flatten(), strict=True)]
    losses = F.cross_entropy(logits.reshape(-1, 5), targets.flatten(), reduction="none")
    rises = [phi / 100 * (1 + float(loss)) for phi, loss in zip(parts, losses, strict=True)]
    assert whole == pytest.approx(100 * math.fsum(rises) / 24 / (1 + float(losses.mean())), rel=1e-5)


def test_ignored_targets_do_not_count() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(6, 5), torch.randint(5, (6,))
    holed = targets.clone()
    holed[[1, 4]] = -100
    kept = [0, 2, 3, 5]
    assert logit_sharpness(logits, holed) == logit_sharpness(logits[kept], targets[kept])
    holed[holed == -100] = 7
    assert logit_sharpness(logits, holed, ignore_index=7) == logit_sharpness(logits[kept], targets[kept])
    logits[1] = math.nan
    assert math.isfinite(logit_sharpness(logits, holed, ignore_index=7))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_no_cancellation_in_narrow_dtypes(dtype: torch.dtype) -> None:
    """A confident position rises by 1e-9 of the loss, and single precision has it to six digits."""
    logits = torch.tensor([[20.0, 0.0, -1.0]], dtype=dtype)
    found = logit_sharpness(logits, torch.tensor([0]))
    assert found == pytest.approx(by_corners(logits[0], 0, 5e-4), rel=1e-4)
    assert found < 1e-8


@pytest.mark.parametrize("epsilon", [5e-4, 0.1, 100.0])
def test_masked_classes_are_as_if_they_were_not_there(epsilon: float) -> None:
    torch.manual_seed(0)
    logits, targets = 2 * torch.randn(6, 5, dtype=torch.float64), torch.randint(5, (6,))
    wide = torch.full((6, 8), -math.inf, dtype=torch.float64)
    wide[:, :5] = logits
    assert logit_sharpness(wide, targets, epsilon) == pytest.approx(
        logit_sharpness(logits, targets, epsilon), rel=1e-12
    )
    goal = torch.tensor(1)
    row = torch.tensor([0.5, 1.0, -math.inf], dtype=torch.float64)  # all corners of the classes that are left
    assert logit_sharpness(row, goal, epsilon) == pytest.approx(by_corners(row[:2], 1, epsilon))


def test_large_logits() -> None:
    logits = torch.tensor([[3e5, -1e5, 0.0]])
    assert logit_sharpness(logits, torch.tensor([2])) == pytest.approx(by_corners(logits[0], 2, 5e-4), rel=1e-5)
    assert math.isfinite(logit_sharpness(logits, torch.tensor([2]), 1.0))


def test_it_records_no_gradient_and_grows_with_epsilon() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(4, 3, requires_grad=True), torch.randint(3, (4,))
    found = [logit_sharpness(logits, targets, epsilon) for epsilon in (1e-4, 5e-4, 1e-3, 1e-2)]
    assert found == sorted(found)
    assert found[0] > 0


@pytest.mark.parametrize(
    ("logits", "targets", "what"),
    [
        (torch.zeros(2, 1), torch.zeros(2, dtype=torch.long), "at least two"),
        (torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, dtype=torch.long), "logits are numbers"),
        (torch.tensor(1.0), torch.tensor(0), "logits are numbers"),
        (torch.zeros(2, 3), torch.zeros(2, 3), "classes as integers"),
        (torch.zeros(2, 3), torch.zeros(3, dtype=torch.long), "without the classes"),
        (torch.zeros(2, 3, 4), torch.zeros(2, 4, dtype=torch.long), "movedim"),
        (torch.zeros(2, 3), torch.tensor([0, 3]), "there are 3 classes"),
        (torch.zeros(2, 3), torch.tensor([0, -1]), "there are 3 classes"),
        (torch.zeros(2, 3), torch.tensor([-100, -100]), "no target counts"),
        (torch.zeros(0, 3), torch.zeros(0, dtype=torch.long), "no target counts"),
        (torch.tensor([[math.inf, 0.0]]), torch.tensor([0]), "not finite"),
        (torch.tensor([[math.nan, 0.0]]), torch.tensor([0]), "not finite"),
        (torch.tensor([[-math.inf, 0.0]]), torch.tensor([0]), "mask a target"),
        (torch.full((1, 2), -math.inf), torch.tensor([0]), "mask a target"),
    ],
)
def test_bad_input(logits: Tensor, targets: Tensor, what: str) -> None:
    with pytest.raises(AnalysisError, match=what):
        logit_sharpness(logits, targets)


@pytest.mark.parametrize("epsilon", [0.0, -1.0, math.inf, math.nan])
def test_a_box_that_is_none(epsilon: float) -> None:
    with pytest.raises(AnalysisError, match="epsilon"):
        logit_sharpness(torch.zeros(2, 3), torch.zeros(2, dtype=torch.long), epsilon)
