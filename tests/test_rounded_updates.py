"""Updates that are rounded as a plan says: bits by hand, optimizers, what is lost, what nothing rounds."""

import copy
import gc
import pickle
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adafactor, Adagrad, Adam, AdamW, Optimizer, RMSprop

import precc
from precc import Precision, PrecisionPlan, RoundedUpdates, Rule, UpdateFormats, round_to
from precc.errors import CaptureError, ControllerError, PlanError, PrecisionWarning, UnsupportedError
from precc.models.lenet5 import LeNet5, example_inputs
from precc.updates.round_update import UpdateRows, lost_to_nearest, round_update
from tests.golden import check_golden

Make = Callable[[Iterable[Tensor]], Optimizer]


def weight_of(values: list[float]) -> nn.Linear:
    model = nn.Linear(len(values), 1, bias=False)
    model.weight = nn.Parameter(torch.tensor([values]))
    return model


def compiled(model: nn.Module, update: Any = None, **options: Any) -> precc.PrecisionModule:
    return precc.compile(model, plan=PrecisionPlan("fp32", default_update=update, **options), backend="reference")


def mlp() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))


def train(net: nn.Module, optimizer: Optimizer, steps: int = 3, first: int = 0) -> None:
    for step in range(first, first + steps):
        x = torch.randn(5, 6, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()


def bits(net: nn.Module) -> list[Tensor]:
    return [own.detach().clone() for own in net.parameters()]


def equal(first: Iterable[Tensor], second: Iterable[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize(
    ("what", "after_one", "after_two"),
    [
        # gradient 1.3, lr 0.5, momentum 0.5; the grid of e4m3 has steps of 1/8 of the power of two below
        ("gradient", 1 - 0.5 * 1.25, 1 - 0.5 * 1.25 - 0.5 * (0.5 * 1.25 + 1.25)),
        ("momentum", 1 - 0.5 * 1.3, 1 - 0.5 * 1.3 - 0.5 * (0.5 * 1.25 + 1.3)),
        ("step", 1 - 0.625, 1 - 0.625 - 1.0),  # 0.65; 0.5 * 1.95 = 0.975, between 0.9375 and 1
        ("master", 0.34375, -0.625),  # 0.35 between 11/32 and 12/32; 0.34375 - 0.975 = -0.63125
    ],
)
def test_each_of_the_four_by_hand(what: str, after_one: float, after_two: float) -> None:
    net = compiled(weight_of([1.0]), {what: "e4m3"})
    optimizer = SGD(net.parameters(), lr=0.5, momentum=0.5)
    RoundedUpdates(net, optimizer)
    found = []
    for _ in range(2):
        optimizer.zero_grad()
        net(torch.tensor([[1.3]])).sum().backward()
        optimizer.step()
        found.append(net.weight.item())
    assert found == pytest.approx([after_one, after_two], abs=1e-6)
    if what == "gradient":
        assert net.weight.grad.item() == 1.25
    if what == "momentum":
        assert optimizer.state[net.weight]["momentum_buffer"].item() == 1.875  # 0.5 * 1.25 + 1.3 = 1.925


OPTIMIZERS: dict[str, Make] = {
    "sgd": lambda own: SGD(own, lr=0.1),
    "momentum": lambda own: SGD(own, lr=0.1, momentum=0.9, weight_decay=0.01, foreach=True),
    "nesterov": lambda own: SGD(own, lr=0.1, momentum=0.9, nesterov=True, foreach=False),
    "adam": lambda own: Adam(own, lr=0.01, foreach=True, amsgrad=True),
    "adamw": lambda own: AdamW(own, lr=0.01, foreach=False),
    "fused": lambda own: AdamW(own, lr=0.01, fused=True),
    "rmsprop": lambda own: RMSprop(own, lr=0.01, momentum=0.9, centered=True),
    "adagrad": lambda own: Adagrad(own, lr=0.01),
    "adafactor": lambda own: Adafactor(own),
}

FORMATS = {"gradient": "e5m6", "momentum": "bf16", "step": "e5m4", "master": "e6m9"}


def by_hand(net: nn.Module, optimizer: Optimizer, formats: dict[str, str], steps: int) -> None:
    """The same with `round_to`, one tensor after the other."""

    def rounded(x: Tensor, what: str) -> Tensor:
        return round_to(x, formats[what]) if what in formats else x

    for step in range(steps):
        x = torch.randn(5, 6, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        net(x).square().mean().backward()
        before = bits(net)
        for own in net.parameters():
            own.grad = rounded(own.grad, "gradient")
        optimizer.step()
        with torch.no_grad():
            for own, old in zip(net.parameters(), before, strict=True):
                for name, value in optimizer.state[own].items():
                    if name != "step" and value is not None:
                        value.copy_(rounded(value, "momentum"))
                moved = old + rounded(own - old, "step") if "step" in formats else own
                own.copy_(rounded(moved.detach(), "master"))


ALONE = [("gradient",), ("momentum",), ("step", "master")]
#: All kinds at once with every optimizer; one alone with those that differ most, and with all in `make test-all`.
STEPPED = [(name, tuple(FORMATS)) for name in OPTIMIZERS] + [
    pytest.param(name, kinds, marks=[pytest.mark.slow] * (name not in ("sgd", "adam", "fused")))
    for kinds in ALONE
    for name in OPTIMIZERS
]


@pytest.mark.parametrize(("name", "kinds"), STEPPED)
def test_optimizers_step_as_by_hand(name: str, kinds: tuple[str, ...]) -> None:
    formats = {what: FORMATS[what] for what in kinds}
    nets = [compiled(mlp(), formats), compiled(mlp()), compiled(mlp())]
    optimizers = [OPTIMIZERS[name](net.parameters()) for net in nets]
    RoundedUpdates(nets[0], optimizers[0])
    train(nets[0], optimizers[0], 4)
    by_hand(nets[1], optimizers[1], formats, 4)
    train(nets[2], optimizers[2], 4)
    assert equal(bits(nets[0]), bits(nets[1]))
    if name != "sgd" or kinds != ("momentum",):  # it has none
        assert not equal(bits(nets[0]), bits(nets[2])), "a check that sees nothing"


@pytest.mark.parametrize("update", [None, "fp32", "fp64"])
def test_what_changes_nothing_copies_nothing(update: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, net = mlp(), compiled(mlp(), update)
    first, second = Adam(plain.parameters()), Adam(net.parameters())
    rounded = RoundedUpdates(net, second, count_every=1)
    train(plain, first)
    generator = torch.get_rng_state()
    copies = 0
    copy_ = Tensor.copy_

    def counting(own: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        nonlocal copies
        copies += 1
        return copy_(own, *args, **kwargs)

    train(net, second, 1)
    monkeypatch.setattr(Tensor, "copy_", counting)
    train(net, second, 2, first=1)
    assert copies == 0
    assert torch.equal(torch.get_rng_state(), generator)
    assert equal(bits(plain), bits(net))
    assert rounded.steps == (3 if update == "fp32" else 0)


@pytest.mark.parametrize(
    "precision", ["e4m3", "e5m2", "int8", "fixed8.4", Precision("e4m3", scaling="tensor"), "mxfp8"]
)
def test_gradients_that_are_not_finite_stay_so(precision: Any) -> None:
    net = compiled(weight_of([1.0] * 5), {"gradient": precision})
    optimizer = SGD(net.parameters(), lr=0.5)
    RoundedUpdates(net, optimizer)
    net.weight.grad = torch.tensor([[1.3, float("inf"), -float("inf"), float("nan"), 1e4]])
    optimizer.step()
    assert not net.weight.grad[0, 1:4].isfinite().any()
    assert not net.weight[0, 1:4].isfinite().any()
    if precision == "e4m3":
        assert net.weight.grad[0].nan_to_num(nan=7.0).tolist()[::3] == [1.25, 7.0]
        assert net.weight.grad[0].tolist()[1:3] == [float("inf"), -float("inf")]
        assert net.weight.grad[0, 4] == 448.0


def test_nearest_rounding_stalls_and_stochastic_does_not() -> None:
    """Steps of 2**-10 from 1, under which bfloat16 has a quantum of 2**-8: a quarter of them, in the mean."""
    steps, width = 64, 4096
    means = []
    for rounding in ("nearest_even", "stochastic"):
        torch.manual_seed(5)
        net = compiled(weight_of([1.0] * width), {"master": Precision("bf16", rounding)})
        optimizer = SGD(net.parameters(), lr=2.0**-10)
        RoundedUpdates(net, optimizer)
        for _ in range(steps):
            optimizer.zero_grad()
            net(torch.ones(1, width)).sum().backward()
            optimizer.step()
            assert torch.equal(net.weight, round_to(net.weight.detach(), "bf16"))
        means.append(net.weight.mean().item())
    assert means[0] == 1.0
    deviation = 2.0**-8 * (steps * 3 / 16 / width) ** 0.5  # of the mean; 5 of them: wrong once in 1.7 million seeds
    assert abs(means[1] - (1 - steps * 2.0**-10)) < 5 * deviation


def test_states_and_slots_have_bits_of_their_own() -> None:
    own = Precision("bf16", "stochastic")
    plan = PrecisionPlan("fp32", default_update=own)
    rows = [UpdateRows.of(plan, path, torch.ones(3)) for path in ("a.weight", "b.weight")]
    found = [row.slot for own in rows for row in (own.gradient, own.of_state("exp_avg"), own.of_state("exp_avg_sq"))]
    found += [row.slot for own in rows for row in (own.step, own.master, own.momentum)]
    assert len(set(found)) == len(found)
    assert rows[0].of_state("exp_avg") is rows[0].of_state("exp_avg")


STOCHASTIC = {what: Precision(fmt, "stochastic") for what, fmt in FORMATS.items()}


def test_a_resumed_training_has_the_same_bits() -> None:
    net = compiled(mlp(), STOCHASTIC)
    optimizer = AdamW(net.parameters(), lr=0.01)
    RoundedUpdates(net, optimizer)
    torch.manual_seed(11)
    train(net, optimizer, 3)
    saved = copy.deepcopy((net.state_dict(), optimizer.state_dict(), net.precision_state(), torch.get_rng_state()))
    train(net, optimizer, 3, first=3)
    other = precc.compile(mlp(), backend="reference")
    resumed = AdamW(other.parameters(), lr=0.01)
    RoundedUpdates(other, resumed)
    other.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    other.load_precision_state(saved[2])
    torch.set_rng_state(saved[3])
    train(other, resumed, 3, first=3)
    assert equal(bits(net), bits(other))
    torch.manual_seed(12)
    train(other, resumed, 1)
    train(net, optimizer, 1)
    assert not equal(bits(net), bits(other)), "bits that no generator changes"


def test_plans_change_between_steps_and_compile_nothing() -> None:
    net = compiled(mlp())
    optimizer = SGD(net.parameters(), lr=0.1)
    RoundedUpdates(net, optimizer)
    train(net, optimizer, 1)
    start, compilations = bits(net), net.compilations
    assert not equal(start, [round_to(own, "bf16") for own in start])
    net.set_plan(PrecisionPlan("fp32", {"2/bias/update.master": "e4m3"}, default_update={"master": "bf16"}))
    train(net, optimizer, 1)
    for path, own in net.named_parameters():
        fmt = "e4m3" if path == "2.bias" else "bf16"
        assert torch.equal(own, round_to(own.detach(), fmt))
    net.set_plan(PrecisionPlan("fp32"))
    train(net, optimizer, 1)
    assert not equal(bits(net), [round_to(own, "bf16") for own in bits(net)])
    assert net.compilations == compilations


def test_rules_of_the_net_decide() -> None:
    rules = [Rule("2", operand="master", keep="fp32"), Rule("0", role="update", family="weight", format="e4m3")]
    net = precc.compile(mlp(), policy=precc.Uniform("bf16", update="bf16"), rules=rules, backend="reference")
    optimizer = SGD(net.parameters(), lr=0.1)
    RoundedUpdates(net, optimizer)
    train(net, optimizer, 2)
    on_grid = {path: equal([own], [round_to(own.detach(), "bf16")]) for path, own in net.named_parameters()}
    assert on_grid == {"0.weight": True, "0.bias": True, "2.weight": False, "2.bias": False}
    assert torch.equal(net[0].weight, round_to(net[0].weight.detach(), "e4m3"))


@pytest.mark.parametrize("scaling", ["tensor", "row", "channel"])
def test_scaled_formats(scaling: str) -> None:
    net = compiled(mlp(), {"master": Precision("e4m3", scaling=scaling)})
    optimizer = SGD(net.parameters(), lr=0.1)
    RoundedUpdates(net, optimizer)
    plain = compiled(mlp())
    train(plain, SGD(plain.parameters(), lr=0.1), 1)
    train(net, optimizer, 1)
    axis = 0 if scaling == "channel" else -1
    wanted = [round_to(own.detach(), "e4m3", scaling=scaling, axis=axis) for own in plain.parameters()]
    assert equal(bits(net), wanted)


def test_scalings_that_fit_no_parameter_name_the_slot() -> None:
    net = compiled(mlp(), {"master": Precision("e4m3", scaling=precc.Scaling("tile", size=(4, 4)))})
    optimizer = SGD(net.parameters(), lr=0.1)
    RoundedUpdates(net, optimizer)
    with pytest.raises(PlanError, match=r"0/bias/update.master"):
        train(net, optimizer, 1)


def test_a_step_as_a_function() -> None:
    plan = PrecisionPlan("fp32", default_update={"step": "e4m3", "master": "bf16"})
    rows = UpdateRows.of(plan, "fc.weight", torch.ones(1))
    old = torch.tensor([1.0, 3.0])
    assert round_update(old, torch.tensor([0.65, 0.01]), rows).tolist() == [1.625, 3.015625]  # 0.009765625 to 2**-6
    assert torch.equal(round_update(old, old, UpdateRows()), 2 * old)
    half = round_update(old.bfloat16(), torch.tensor([0.65, 0.01]), rows)
    assert half.dtype == torch.bfloat16
    random = UpdateRows.of(
        PrecisionPlan("fp32", default_update={"master": Precision("bf16", "stochastic")}), "a", torch.ones(1)
    )
    start, step = torch.ones(10_000, dtype=torch.bfloat16), torch.full((10_000,), 2.0**-9)  # a quarter of a quantum
    moved = round_update(start, step, random, 7)
    assert abs((moved > 1).float().mean().item() - 0.25) < 5 * (0.25 * 0.75 / 10_000) ** 0.5
    assert torch.equal(moved, round_update(start, step, random, 7))
    assert not torch.equal(moved, round_update(start, step, random, 8))


def test_what_nearest_rounding_loses() -> None:
    old = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0, 4.0])
    step = torch.tensor([0.0, 2.0**-9, 2.0**-6, -(2.0**-10), 1e-9, float("nan")])
    for rounding in ("nearest_even", "stochastic", "toward_zero"):
        row = Precision("bf16", rounding).row()
        assert lost_to_nearest(old, step, row).item() == 2
    scaled = Precision("int8", scaling="tensor").row()  # its scale is a power of two: the quantum is 1 / 16
    assert lost_to_nearest(old, torch.full((6,), 0.031), scaled).item() == 6
    assert lost_to_nearest(old, torch.full((6,), 0.032), scaled).item() == 0


def test_reports_say_what_is_rounded_and_lost() -> None:
    net = compiled(weight_of([1.0] * 4), {"master": Precision("bf16", "stochastic"), "momentum": "fp16"})
    optimizer = SGD(net.parameters(), lr=2.0**-10)
    lacking = "updates are not rounded: precc.RoundedUpdates(net, optimizer) does"
    assert lacking in net.report().notes
    assert "updates in momentum float16, master bfloat16 stochastic: weight" in net.report().notes
    rounded = RoundedUpdates(net, optimizer, count_every=2)
    assert lacking not in net.report().notes
    line = "updates that nearest rounding of the master weight loses, in the last counted step: "
    for x, shown in ((torch.tensor([[0.0, 1, 1, 16]]), "weight 50.0%"), (torch.full((1, 4), 64.0), "weight 50.0%")):
        optimizer.zero_grad()
        net(x).sum().backward()
        optimizer.step()
        assert line + shown in net.report().notes
    optimizer.step()
    assert line + "none" in net.report().notes
    assert rounded.lost() == {"weight": 0.0}
    rounded.close()
    assert lacking in net.report().notes


def test_reports_of_rules() -> None:
    net = precc.compile(mlp(), policy="bf16", rules=[Rule("0", role="update", format="bf16")], backend="reference")
    net(torch.ones(1, 6)).sum().backward()
    assert "Rule('0', role='update', format='bfloat16') decides 8 updates" in net.report().notes
    assert "updates in gradient bfloat16, momentum bfloat16, step bfloat16, master bfloat16: 0.weight, 0.bias" in str(
        net.report()
    )


def test_a_training_that_rounds_no_updates_is_told_once() -> None:
    net = compiled(mlp(), "bf16", loss_scaling=8)
    optimizer = SGD(net.parameters(), lr=0.1)
    x = torch.ones(1, 6)
    for _ in range(3):
        net(x).sum().backward()  # accumulates: nothing is trained
    optimizer.step()
    with torch.no_grad():
        net(x)
    with pytest.warns(PrecisionWarning, match=r"updates are not rounded: .*; losses are not scaled") as told:
        net(x)
    assert told[0].filename == __file__
    optimizer.step()
    net(x)
    stored = compiled(mlp(), "fp32")
    train(stored, SGD(stored.parameters(), lr=0.1), 3)
    assert "updates are not rounded" not in str(stored.report())
    other = compiled(mlp(), {"master": "bf16"})
    optimizer = SGD(other.parameters(), lr=0.1)
    RoundedUpdates(other, optimizer)
    train(other, optimizer, 3)
    plain = precc.compile(mlp(), policy="bf16", backend="reference")
    train(plain, SGD(plain.parameters(), lr=0.1), 3)


def test_closures() -> None:
    nets = [compiled(mlp(), STOCHASTIC) for _ in range(3)]
    x = torch.ones(2, 6)
    for net, by_name in zip(nets, (None, False, True), strict=True):
        optimizer = SGD(net.parameters(), lr=0.1, momentum=0.5)
        RoundedUpdates(net, optimizer)
        torch.manual_seed(4)

        def closure(net: nn.Module = net, optimizer: Optimizer = optimizer) -> Tensor:
            optimizer.zero_grad()
            loss: Tensor = net(x).square().mean()
            loss.backward()
            return loss

        for _ in range(3):
            if by_name is None:
                closure()
                optimizer.step()
            else:
                loss = optimizer.step(closure=closure) if by_name else optimizer.step(closure)
                assert isinstance(loss, Tensor)
    assert equal(bits(nets[0]), bits(nets[1]))
    assert equal(bits(nets[0]), bits(nets[2]))


class Twice(SGD):
    """Evaluates its closure twice a step."""

    def step(self, closure: Any = None) -> Any:
        closure()
        return closure()


class Strange(SGD):
    """Has a state that nobody knows."""

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for own in group["params"]:
                self.state[own]["sketch"] = own.grad.clone()
        return super().step(closure)


def test_optimizers_that_move_several_times_a_step_are_refused() -> None:
    net = compiled(mlp(), "bf16")
    cases: list[tuple[Callable[[Any], Any], str]] = [
        (torch.optim.LBFGS, "several moves"),
        (lambda _: precc.TrustRegion(net), "TrustRegion rounds its updates itself"),
        (lambda _: precc.STORM(net), "STORM rounds its updates itself"),
    ]
    for make, message in cases:
        with pytest.raises(UnsupportedError, match=message):
            RoundedUpdates(net, make(net.parameters()))
    optimizer = Twice(net.parameters(), lr=0.1)
    RoundedUpdates(net, optimizer)
    with pytest.raises(UnsupportedError, match="several times a step"):
        optimizer.step(lambda: net(torch.ones(1, 6)).sum().backward())


def test_states_that_nobody_knows_are_named() -> None:
    net = compiled(mlp(), {"momentum": "bf16"})
    optimizer = Strange(net.parameters(), lr=0.1)
    rounded = RoundedUpdates(net, optimizer)
    with pytest.raises(ControllerError, match=r"keeps 'sketch' for '0.weight'"):
        train(net, optimizer, 1)
    rounded.close()
    rounded = RoundedUpdates(net, optimizer, momentum=["sketch"])
    train(net, optimizer, 1)
    sketch = optimizer.state[net[0].weight]["sketch"]
    assert torch.equal(sketch, round_to(sketch, "bf16"))
    rounded.close()
    RoundedUpdates(net, optimizer, other=["sketch"])
    train(net, optimizer, 1)
    sketch = optimizer.state[net[0].weight]["sketch"]
    assert not torch.equal(sketch, round_to(sketch, "bf16"))


def test_what_is_attached_wrongly_says_so() -> None:
    net, other = compiled(mlp()), nn.Linear(2, 2)
    optimizer = SGD(net.parameters(), lr=0.1)
    with pytest.raises(CaptureError, match="made by precc.compile"):
        RoundedUpdates(other, optimizer)
    with pytest.raises(ControllerError, match="an optimizer of torch.optim, not Linear"):
        RoundedUpdates(net, other)
    with pytest.raises(ControllerError, match="2 parameter\\(s\\) that are not of the net, the first of shape"):
        RoundedUpdates(net, SGD([*net.parameters(), *other.parameters()], lr=0.1))
    for options in ({"count_every": 0}, {"momentum": "exp_avg"}, {"other": [3]}):
        with pytest.raises(ControllerError):
            RoundedUpdates(net, optimizer, **options)
    first = RoundedUpdates(net, optimizer)
    with pytest.raises(ControllerError, match="has a RoundedUpdates already"):
        RoundedUpdates(net, optimizer)
    first.close()
    second = RoundedUpdates(net, optimizer)
    first.close()
    with pytest.raises(ControllerError, match="has a RoundedUpdates already"):
        RoundedUpdates(net, optimizer)
    assert second.paths == ("0.weight", "0.bias", "2.weight", "2.bias")


def test_an_optimizer_keeps_what_rounds_its_steps() -> None:
    net = compiled(weight_of([1.0]), {"master": "e4m3"})
    optimizer = SGD(net.parameters(), lr=0.5)
    RoundedUpdates(net, optimizer)
    gc.collect()
    net(torch.tensor([[1.3]])).sum().backward()
    optimizer.step()
    assert net.weight.item() == 0.34375


def test_sparse_gradients_are_refused_where_they_are_rounded() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(5, 4, sparse=True), nn.Linear(4, 1)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.head(self.table(x))
            return result

    net = compiled(Words(), {"gradient": "bf16"})
    optimizer = SGD(net.parameters(), lr=0.1)
    RoundedUpdates(net, optimizer)
    net(torch.tensor([1, 2])).sum().backward()
    if not net.table.weight.grad.is_sparse:
        pytest.skip("the graph makes it dense")
    with pytest.raises(UnsupportedError, match="sparse"):
        optimizer.step()


@pytest.mark.parametrize("fused", [False, True])
def test_gradients_are_rounded_without_the_scale_of_a_grad_scaler(fused: bool) -> None:
    found = []
    for scaled in (False, True):
        net = compiled(mlp(), {"gradient": "e4m3", "master": "bf16"})
        optimizer = Adam(net.parameters(), lr=0.01, fused=fused)
        RoundedUpdates(net, optimizer)
        scaler = torch.amp.GradScaler("cpu", init_scale=3.0 if fused else 1024.0, enabled=scaled)
        for _ in range(2):
            optimizer.zero_grad()
            scaler.scale(net(torch.ones(2, 6)).square().mean()).backward()
            if fused and scaled:
                with pytest.raises(UnsupportedError, match=r"scaler.unscale_\(optimizer\)"):
                    scaler.step(optimizer)
                del optimizer.grad_scale, optimizer.found_inf
                return
            scaler.step(optimizer)
            scaler.update()
        found.append(bits(net))
    assert equal(*found)


def test_a_fused_step_whose_gradients_were_unscaled() -> None:
    net = compiled(mlp(), {"gradient": "e4m3"})
    optimizer = Adam(net.parameters(), lr=0.01, fused=True)
    RoundedUpdates(net, optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(net(torch.ones(2, 6)).square().mean()).backward()
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    assert all(torch.equal(own.grad, round_to(own.grad, "e4m3")) for own in net.parameters())


def test_a_step_that_a_grad_scaler_skips_draws_nothing() -> None:
    net = compiled(mlp(), STOCHASTIC)
    optimizer = SGD(net.parameters(), lr=0.01, momentum=0.9)
    rounded = RoundedUpdates(net, optimizer)
    train(net, optimizer, 1)
    before, generator = bits(net), torch.get_rng_state()
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(net(torch.full((2, 6), float("inf"))).sum()).backward()
    scaler.step(optimizer)
    assert equal(before, bits(net))
    assert torch.equal(torch.get_rng_state(), generator)
    assert rounded.steps == 1


def test_copies_need_one_of_their_own() -> None:
    net = compiled(mlp(), {"master": "e4m3"})
    optimizer = SGD(net.parameters(), lr=0.1)
    rounded = RoundedUpdates(net, optimizer)
    for copied in (copy.deepcopy, copy.copy, pickle.dumps):
        with pytest.raises(ControllerError, match=r"make another for copies of these, precc.RoundedUpdates\("):
            copied((net, optimizer, rounded) if copied is not copy.copy else rounded)
    other, second = copy.deepcopy((net, optimizer))
    with pytest.warns(PrecisionWarning, match="updates are not rounded"):
        train(other, second)
    other, second = copy.deepcopy((net, optimizer))
    RoundedUpdates(other, second)
    train(other, second)
    train(net, optimizer)
    assert equal(bits(net), bits(other))


def test_several_optimizers_and_frozen_parameters() -> None:
    net = compiled(mlp(), {"master": "e4m3"})
    net[2].bias.requires_grad_(False)
    optimizers = [SGD(net[0].parameters(), lr=0.1), SGD(net[2].parameters(), lr=0.1)]
    outside = "updates are not rounded, for precc.RoundedUpdates has no optimizer of them: 2.weight"
    for own, notes in zip(optimizers, ([outside], []), strict=True):
        RoundedUpdates(net, own)
        assert [note for note in net.report().notes if note.startswith("updates are not")] == notes
    net(torch.ones(2, 6)).square().mean().backward()
    for own in optimizers:
        own.step()
    on_grid = [torch.equal(own, round_to(own.detach(), "e4m3")) for own in net.parameters()]
    assert on_grid == [True, True, True, False]


def test_formats_of_updates_are_values() -> None:
    assert str(UpdateFormats()) == "as stored"
    assert dict(UpdateFormats(step="bf16")) == {"step": Precision("bf16")}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert UpdateFormats(master="bf16") != UpdateFormats(step="bf16")


def test_the_report_of_a_training() -> None:
    torch.manual_seed(0)
    plan = PrecisionPlan(
        "e4m3", {"fc3/weight/update.master": "fp32"}, default_update={"master": "e4m3", "step": "bf16"}, loss_scaling=64
    )
    rules = [Rule("conv*", role="update", format=Precision("bf16").format, rounding="stochastic")]
    net = precc.compile(LeNet5(), plan=plan, rules=rules, backend="reference")
    optimizer, scaler = SGD(net.parameters(), lr=2.0**-6), precc.LossScaler(net)
    RoundedUpdates(net, optimizer)
    for factor in (1.0, float("inf")):
        optimizer.zero_grad()
        scaler.scale(net(example_inputs()[0]).square().mean() * factor).backward()
        scaler.step(optimizer)
        scaler.update()
    lost = "updates that nearest rounding of the master weight loses, in the last counted step: conv1.bias 100.0%"
    lines = net.report().text(400).splitlines()
    assert sum(line.startswith(lost) for line in lines) == 1
    check_golden("report_updates.txt", "\n".join(line for line in lines if not line.startswith(lost)))
