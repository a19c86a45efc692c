"""Learning rates of quantisation scales: by hand, around optimizers, with schedulers, resumed."""

import copy
import gc
import math
import weakref
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from precc.control.alrs import ALRS
from precc.control.alrs_rule import ALRSRule
from precc.errors import ControllerError, UnsupportedError

RULE = ALRSRule(8)


@pytest.mark.parametrize(
    ("bits", "eta"), [(8, 1.0), (7, 0.5), (6, 0.1), (5, 0.05), (4, 0.01), (3, 0.005), (2, 0.001), (1, 0.0005)]
)
def test_the_factor_of_a_width(bits: int, eta: float) -> None:
    """Even D: 10**(-D/2); odd D: 5 * 10**(-(D+1)/2)."""
    assert RULE.eta(bits) == eta


@pytest.mark.parametrize(
    ("rate", "bits", "magnitudes", "expected"),
    [
        (0.1, 8, [], 0.1),
        (0.1, 8, [0.02, 0.04], 0.07),
        (0.1, 4, [0.02, 0.04], 0.0007),
        (0.1, 7, [0.0, 0.0, 0.06], 0.04),
        # a gradient above 1 counts as 1
        (0.9, 8, [7.0, 0.5], 0.15),
        (1.0, 8, [math.inf, 0.0], 0.5),
        (1.0, 8, [math.nan, 0.0], 0.5),
        # never below 0
        (0.1, 6, [0.5], 0.0),
    ],
)
def test_the_rate_by_hand(rate: float, bits: int, magnitudes: list[float], expected: float) -> None:
    assert RULE.rate(rate, bits, magnitudes) == pytest.approx(expected)


@given(st.floats(0, 10), st.integers(1, 8), st.lists(st.floats(0, 100), max_size=5))
def test_the_rate_is_never_negative_nor_above_the_optimizers(rate: float, bits: int, magnitudes: list[float]) -> None:
    assert 0.0 <= RULE.rate(rate, bits, magnitudes) <= rate


def scales(count: int = 3) -> list[nn.Parameter]:
    return [nn.Parameter(torch.ones(2)) for _ in range(count)]


def set_gradients(parameters: list[nn.Parameter], *magnitudes: float) -> None:
    for own, magnitude in zip(parameters, magnitudes, strict=True):
        own.grad = torch.tensor([magnitude, -magnitude / 2])


def test_a_step_of_sgd_by_hand() -> None:
    """Rate 0.1 * (0.5 - (0.1 + 0.2 + 0.3) / 3) = 0.03."""
    own = scales()
    optimizer = torch.optim.SGD(own, lr=0.5)
    alrs = ALRS(optimizer, highest_bits=8, bits=6)
    set_gradients(own, 0.1, 0.2, -0.3)
    optimizer.step()
    assert alrs.rates == {0: pytest.approx(0.03)}
    assert [value for scale in own for value in scale.tolist()] == pytest.approx(
        [1 - 0.003, 1 + 0.0015, 1 - 0.006, 1 + 0.003, 1 + 0.009, 1 - 0.0045]
    )
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_one_group_of_several_and_parameters_without_gradient() -> None:
    weights, own = scales(1), scales(2)
    optimizer = torch.optim.SGD([{"params": weights, "lr": 1.0}, {"params": own, "lr": 0.5}])
    alrs = ALRS(optimizer, 4, 4, groups=[1])
    set_gradients(weights, 0.1)
    set_gradients(own[:1], 0.2)
    optimizer.step()
    assert alrs.rates == {1: pytest.approx(0.3)}
    assert weights[0][0].item() == pytest.approx(0.9)
    assert own[0][0].item() == pytest.approx(1 - 0.06)
    assert own[1].tolist() == [1.0, 1.0]


def test_widths_by_turns_with_a_scheduler() -> None:
    own = scales(1)
    optimizer = torch.optim.SGD(own, lr=1.0)
    alrs = ALRS(optimizer, 8, 8)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    found = []
    for _ in range(2):
        for alrs.bits in (8, 6, 4):
            set_gradients(own, 0.0)
            optimizer.step()
            found.append(alrs.rates[0])
        scheduler.step()
    assert found == pytest.approx([1.0, 0.1, 0.01, 0.5, 0.05, 0.005])
    assert optimizer.param_groups[0]["lr"] == 0.25


def test_the_rate_in_a_tensor() -> None:
    own = scales(1)
    lr = torch.tensor(0.5)
    optimizer = torch.optim.Adam(own, lr=lr, foreach=False)
    alrs = ALRS(optimizer, 8, 6)
    set_gradients(own, 0.25)
    optimizer.step()
    assert optimizer.param_groups[0]["lr"] is lr
    assert float(lr) == 0.5
    assert own[0][0].item() == pytest.approx(1 - 0.025)  # Adam's first step has the length of the rate
    assert alrs.rates[0] == pytest.approx(0.025)


def test_a_step_that_fails_leaves_no_rate_behind() -> None:
    own = scales(1)
    optimizer = torch.optim.SGD(own, lr=0.5)
    alrs = ALRS(optimizer, 8, 6)

    def fail() -> float:
        raise RuntimeError("on purpose")

    set_gradients(own, 0.0)
    with pytest.raises(RuntimeError, match="on purpose"):
        optimizer.step(fail)
    optimizer.step()
    assert alrs.rates == {0: pytest.approx(0.05)}
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_closed_or_gone_it_does_nothing() -> None:
    own = scales(1)
    optimizer = torch.optim.SGD(own, lr=0.5)
    alrs = ALRS(optimizer, 8, 4)
    alrs.close()
    set_gradients(own, 0.1)
    optimizer.step()
    assert own[0][0].item() == pytest.approx(0.95)
    alrs = ALRS(optimizer, 8, 4)
    gone = weakref.ref(alrs)
    del alrs
    gc.collect()
    assert gone() is None
    optimizer.step()
    assert own[0][0].item() == pytest.approx(0.9)


@pytest.mark.parametrize("cut", [1, 4])
def test_it_goes_on_from_a_checkpoint_bit_for_bit(cut: int) -> None:
    def made() -> tuple[list[nn.Parameter], torch.optim.Optimizer, ALRS]:
        own = scales()
        optimizer = torch.optim.Adam(own, lr=0.5)
        return own, optimizer, ALRS(optimizer, 8, 8)

    def train(own: list[nn.Parameter], optimizer: torch.optim.Optimizer, alrs: ALRS, steps: range) -> None:
        for step in steps:
            set_gradients(own, *torch.rand(3, generator=torch.Generator().manual_seed(step)).mul(0.4).tolist())
            optimizer.step()
            alrs.bits = 4 + step % 5

    own, optimizer, alrs = made()
    train(own, optimizer, alrs, range(cut))
    values = [scale.detach().clone() for scale in own]
    saved = copy.deepcopy((optimizer.state_dict(), alrs.state_dict()))
    train(own, optimizer, alrs, range(cut, 10))
    others, second, again = made()
    for scale, value in zip(others, values, strict=True):
        scale.data.copy_(value)
    second.load_state_dict(saved[0])
    again.load_state_dict(saved[1])
    train(others, second, again, range(cut, 10))
    assert all(torch.equal(a, b) for a, b in zip(own, others, strict=True))
    assert again.rates == alrs.rates


@pytest.mark.parametrize(
    ("highest", "bits", "groups", "what"),
    [
        (0, 1, None, "highest_bits"),
        (8.0, 8, None, "highest_bits"),
        (8, 9, None, "9 bits are more than the highest, 8"),
        (8, 0, None, "bits"),
        (8, 4.0, None, "bits"),
        (8, 4, [], "positions"),
        (8, 4, 0, "positions"),
        (8, 4, [1], "1 groups, and none at position 1"),
        (8, 4, [-1], "position of a group"),
        (8, 4, [0, 0], "twice"),
    ],
)
def test_options_that_do_not_fit(highest: Any, bits: Any, groups: Any, what: str) -> None:
    optimizer = torch.optim.SGD(scales(), lr=0.5)
    with pytest.raises(ControllerError, match=what):
        ALRS(optimizer, highest, bits, groups=groups)


def test_no_optimizer() -> None:
    with pytest.raises(ControllerError, match=r"an optimizer of torch.optim, not list"):
        ALRS(scales(), 8, 8)  # type: ignore[arg-type]


def test_a_width_that_is_none_is_refused_and_changes_nothing() -> None:
    alrs = ALRS(torch.optim.SGD(scales(), lr=0.5), 8, 6)
    with pytest.raises(ControllerError, match="more than the highest"):
        alrs.bits = 16
    assert alrs.bits == 6


@pytest.mark.parametrize("state", [None, {}, {"highest_bits": 4, "bits": 2}, {"highest_bits": 8, "bits": 9}])
def test_states_that_do_not_fit(state: Any) -> None:
    alrs = ALRS(torch.optim.SGD(scales(), lr=0.5), 8, 6)
    with pytest.raises(ControllerError):
        alrs.load_state_dict(state)
    assert alrs.bits == 6


@pytest.mark.parametrize("unscaled", [False, True])
def test_fused_optimizers_through_a_grad_scaler(unscaled: bool) -> None:
    """They take the scale off in their step, which is too late for the rate."""
    optimizer = torch.optim.Adam(own := scales(1), lr=1.0, fused=True)
    alrs = ALRS(optimizer, 8, 8)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    scaler.scale(own[0].sum() * 0.125).backward()
    if unscaled:
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        assert alrs.rates == {0: 0.875}
        return
    with pytest.raises(UnsupportedError, match=r"ALRS needs .* fused Adam .*scaler.unscale_\(optimizer\)"):
        scaler.step(optimizer)
    assert optimizer.param_groups[0]["lr"] == 1.0
    assert own[0].tolist() == [1.0, 1.0]
