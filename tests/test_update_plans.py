"""Formats of updates and loss scaling as parts of a plan: names, defaults, rules, JSON, differences."""

import json
import pickle
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import precc
from precc import LossScaling, Precision, PrecisionPlan, Rule, Uniform, UpdateFormats
from precc.errors import FormatError, PlanError
from precc.precision import AS_STORED
from precc.slots import UPDATES, Role, Slot, names_update, update_slot, update_slots
from precc.updates.same_updates import with_updates_of

PATHS = st.lists(st.from_regex(r"[a-z_][a-z0-9_]{0,5}", fullmatch=True), min_size=1, max_size=4).map(".".join)


def compiled(model: nn.Module | None = None, **options: Any) -> precc.PrecisionModule:
    return precc.compile(model or nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)), backend="reference", **options)


@given(PATHS, st.sampled_from(UPDATES))
def test_names_round_trip(path: str, what: str) -> None:
    name = update_slot(path, what)
    slot = Slot.parse(name)
    assert slot.name == name
    assert names_update(name)
    assert slot.is_update
    assert not slot.is_result
    assert (f"{slot.layer}.{slot.family}".lstrip("."), slot.operand) == (path, what)
    assert slot.accumulators == slot.results == ()


def test_names_of_a_net() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    model.mix = nn.Parameter(torch.zeros(1), requires_grad=False)
    assert len(update_slots(model)) == 12
    assert {"0/weight/update.master", "0/bias/update.gradient", "mix/update.step"} < update_slots(model)


@pytest.mark.parametrize("what", ["result", "accumulator", "weight", "Master"])
def test_other_updates_are_refused(what: str) -> None:
    with pytest.raises(PlanError, match=r"the update '\w+': expected one of 'gradient', 'momentum', 'step', 'master'"):
        Slot.parse(f"fc/weight/update.{what}")
    with pytest.raises(PlanError):
        PrecisionPlan("e4m3", {f"fc/weight/update.{what}": "bf16"})
    with pytest.raises(PlanError):
        PrecisionPlan("e4m3").precision(f"fc/weight/update.{what}")


def test_operands_are_no_updates() -> None:
    assert not names_update("fc/product/fprop.weight")
    assert not names_update("update.x/product/fprop.weight")
    assert Role("update") is Role.UPDATE


def test_updates_are_as_stored_unless_a_plan_says_otherwise() -> None:
    plan = PrecisionPlan("e4m3", default_result="bf16")
    assert all(plan.precision(f"fc/weight/update.{what}") == AS_STORED for what in UPDATES)
    assert not plan.rounds_updates
    assert plan.loss_scaling is None


def test_defaults_names_and_what_they_decide() -> None:
    plan = PrecisionPlan(
        "e4m3", {"fc/bias/update.master": "fp32"}, default_update={"master": "bf16", "step": Precision("e5m10")}
    )
    assert plan.precision("fc/weight/update.master") == Precision("bf16")
    assert plan.precision("fc/bias/update.master") == Precision("fp32")
    assert plan.precision("fc/weight/update.step") == Precision("e5m10")
    assert plan.precision("fc/weight/update.momentum") == AS_STORED
    assert plan.precision("fc/product/fprop.weight") == Precision("e4m3")
    assert plan.rounds_updates
    assert not plan.rounds_results
    assert PrecisionPlan("e4m3", {"fc/bias/update.master": "bf16"}).rounds_updates
    assert not PrecisionPlan("e4m3", {"fc/bias/update.master": "fp64"}).rounds_updates


def test_one_format_is_for_all_four() -> None:
    assert UpdateFormats.of("bf16") == UpdateFormats(gradient="bf16", momentum="bf16", step="bf16", master="bf16")
    assert not UpdateFormats.of(None)
    assert not UpdateFormats(master="fp64")
    own = UpdateFormats(step="bf16")
    assert UpdateFormats.of(own) is own


@pytest.mark.parametrize("wrong", ["e9", {"weights": "bf16"}, {"master": 3}, 7])
def test_what_is_no_formats_of_updates(wrong: Any) -> None:
    with pytest.raises((PlanError, FormatError)):
        PrecisionPlan("e4m3", default_update=wrong)


@pytest.mark.parametrize(
    "own", [Precision("e4m3", transform="hadamard"), Precision("e4m3", scaling=precc.Scaling("tensor", history=4))]
)
def test_transforms_and_scales_of_earlier_steps_are_refused(own: Precision) -> None:
    for make in (
        lambda: UpdateFormats(master=own),
        lambda: PrecisionPlan("e4m3", {"fc/weight/update.master": own}),
        lambda: Rule("fc", role="update", format=own.format, scaling=own.scaling, transform=own.transform),
    ):
        with pytest.raises(PlanError, match="cannot have the precision"):
            make()


def test_plans_that_round_updates_differ_from_those_that_do_not() -> None:
    plain, rounded = PrecisionPlan("e4m3"), PrecisionPlan("e4m3", default_update={"master": "bf16"})
    assert plain != rounded
    assert PrecisionPlan("e4m3", default_update="fp64") == plain
    assert hash(PrecisionPlan("e4m3", default_update="fp64")) == hash(plain)
    assert PrecisionPlan("e4m3", {"fc/weight/update.master": "fp64"}) == plain
    assert plain != PrecisionPlan("e4m3", loss_scaling=8)
    assert PrecisionPlan("e4m3", loss_scaling=8) == PrecisionPlan("e4m3", loss_scaling=LossScaling(8.0))
    assert len({plain, rounded, PrecisionPlan("e4m3", loss_scaling=8)}) == 3


MANY = PrecisionPlan(
    "e4m3",
    {"a/weight/update.step": "fp16", "a/product/fprop.weight": "bf16"},
    default_update={"master": Precision("bf16", "stochastic"), "momentum": Precision("e4m3", scaling="tensor")},
    loss_scaling=LossScaling(4096, dynamic=True, growth_interval=7),
    rules=[Rule("b", role="update", operand="m*", format="fp16"), Rule("c", operand="gradient", format="bf16")],
)


def test_plans_go_through_json_and_pickle() -> None:
    assert PrecisionPlan.from_json(MANY.to_json()) == MANY
    assert PrecisionPlan.from_json(MANY.to_json()).to_json() == MANY.to_json()
    assert pickle.loads(pickle.dumps(MANY)) == MANY
    plain = json.loads(PrecisionPlan("e4m3").to_json())
    assert not {"default_update", "loss_scaling"} & set(plain)


@pytest.mark.parametrize(
    "entry",
    [
        {"default_update": {"weights": {"format": "bfloat16", "rounding": "nearest_even"}}},
        {"default_update": 3},
        {"default_update": {"master": 3}},
        {"loss_scaling": {"initial": 0.0}},
        {"loss_scaling": {"start": 1.0}},
        {"loss_scaling": 8},
        {"loss_scaling": {"initial": 8.0, "dynamic": 1}},
    ],
)
def test_malformed_json_is_refused(entry: dict[str, Any]) -> None:
    document = json.loads(PrecisionPlan("e4m3").to_json()) | entry
    with pytest.raises(PlanError):
        PrecisionPlan.from_json(json.dumps(document))


def test_the_text_of_a_plan() -> None:
    assert str(MANY).splitlines() == [
        "plan: float8_e4m3fn in every slot, updates in momentum float8_e4m3fn/tensor, master bfloat16 stochastic, "
        "the loss scaled by 4096, times 2 after 7 steps, times 0.5 after one that is not finite but:",
        "  Rule('b', role='update', operand='m*', format='float16')",
        "  Rule('c', operand='gradient', format='bfloat16')",
        "  a/product/fprop.weight  bfloat16",
        "  a/weight/update.step    float16",
    ]


def test_differences() -> None:
    before = PrecisionPlan("e4m3", {"a/weight/update.step": "fp16"}, default_update={"master": "bf16"})
    after = PrecisionPlan("e4m3", default_update={"master": "fp16"}, loss_scaling=8)
    assert str(before.diff(after)).splitlines() == [
        "loss scaling: none -> 8",
        "a/weight/update.step: float16 -> as stored",
        "*.master: bfloat16 -> float16",
    ]
    assert not before.diff(before)
    named = {"a/weight/update.master": "fp16", "b/weight/update.master": "bf16"}
    other = PrecisionPlan("e4m3", named, default_update={"master": "fp16"})
    changed = [str(own) for own in PrecisionPlan("e4m3", default_update={"master": "bf16"}).diff(other)]
    assert changed == ["*.master: bfloat16 -> float16"]


def test_updates_cost_no_bits() -> None:
    plan = PrecisionPlan(
        "e4m3", {"fc/weight/update.master": "fp32"}, default_update="bf16", rules=[Rule(role="update", format="fp16")]
    )
    assert plan.average_bits == 8
    named = PrecisionPlan("e4m3", {"a/product/fprop.weight": "bf16", "a/weight/update.master": "fp32"})
    assert named.resolve({"a/product/fprop.weight": 3, "a/product/fprop.input": 3}).average_bits == 12


def test_uniform_sets_them() -> None:
    plan = Uniform("e4m3", update={"master": "bf16"}, loss_scaling=1024).assign()
    assert plan == PrecisionPlan("e4m3", default_update={"master": "bf16"}, loss_scaling=1024)
    assert plan.provenance.policy == "Uniform('float8_e4m3fn', update='master bfloat16', loss_scaling='1024')"
    assert hash(Uniform("e4m3", update="bf16")) != hash(Uniform("e4m3"))
    with pytest.raises(FormatError):
        Uniform("e4m3", update="bf17")
    with pytest.raises(PlanError):
        Uniform("e4m3", loss_scaling=0)


RULES = [
    (Rule(role="update", format="bf16"), {"fc/weight/update.master", "fc/weight/update.step"}),
    (Rule(operand="master", format="bf16"), {"fc/weight/update.master"}),
    (Rule(family="weight", operand="step", format="bf16"), {"fc/weight/update.step"}),
    (Rule(family="bias", operand="step", format="bf16"), set()),
    (Rule("fc", role="update", operand="ma*", format="bf16"), {"fc/weight/update.master"}),
    (Rule("other", role="update", format="bf16"), set()),
    (Rule(format="bf16"), {"fc/product/fprop.weight"}),
    (Rule(role="*", format="bf16"), {"fc/product/fprop.weight"}),
    (Rule(operand="*", format="bf16"), {"fc/product/fprop.weight"}),
]


@pytest.mark.parametrize(("rule", "decided"), RULES)
def test_what_rules_decide(rule: Rule, decided: set[str]) -> None:
    every = ("fc/product/fprop.weight", "fc/weight/update.master", "fc/weight/update.step", "fc/product/fprop.result")
    plan = PrecisionPlan("e4m3", rules=[rule], default_result="fp16", default_update="fp16")
    assert {name for name in every if plan.precision(name) == Precision("bf16")} == decided
    assert plan.precision("fc/product/fprop.result") == Precision("fp16")
    assert plan.precision("fc/bias/update.momentum") in (Precision("fp16"), Precision("bf16"))


def test_what_is_kept_is_updated_as_plain_pytorch_does() -> None:
    plan = PrecisionPlan("e4m3", default_update="bf16", rules=[Rule("fc", keep="fp32")])
    assert plan.precision("fc/weight/update.master") == AS_STORED
    assert plan.precision("other/weight/update.master") == Precision("bf16")
    wgrad = PrecisionPlan("e4m3", default_update="bf16", rules=[Rule("fc", keep="fp32", role="wgrad")])
    assert wgrad.precision("fc/weight/update.master") == Precision("bf16")
    master = PrecisionPlan("e4m3", default_update="bf16", rules=[Rule("fc", keep="fp32", operand="master")])
    assert master.precision("fc/weight/update.master") == Precision("fp32")
    assert master.precision("fc/weight/update.step") == Precision("bf16")


def test_rules_that_change_nothing_are_no_difference() -> None:
    rule = Rule("fc", keep="fp32")
    assert PrecisionPlan("fp32", rules=[rule]) == PrecisionPlan("fp32")
    for own in ({"default_update": "bf16"}, {"default_result": "bf16"}):
        assert PrecisionPlan("fp32", rules=[rule], **own) != PrecisionPlan("fp32", **own)
    same = Rule("fc", role="update", format="bf16")
    assert PrecisionPlan("fp32", rules=[same], default_update="bf16") == PrecisionPlan("fp32", default_update="bf16")
    assert PrecisionPlan("fp32", rules=[same]) != PrecisionPlan("fp32")


@pytest.mark.parametrize(
    "make",
    [
        lambda: Rule(role="fprop", operand="master", format="bf16"),
        lambda: Rule(role="update", operand="weight", format="bf16"),
        lambda: Rule(role="update", accumulator="fp32"),
        lambda: Rule(role="update"),
    ],
)
def test_rules_of_updates_that_contradict_themselves(make: Any) -> None:
    with pytest.raises(PlanError):
        make()


def test_nets_check_names_and_rules_of_updates() -> None:
    net = compiled(rules=[Rule("1", role="update", format="bf16")])
    net(torch.ones(2, 4)).sum().backward()
    net.set_plan(PrecisionPlan("e4m3", {"1/weight/update.master": "bf16"}))
    assert net.plan.precision("1/bias/update.step") == Precision("bf16")
    with pytest.raises(PlanError, match=r"did you mean '0/weight/update.master'"):
        net.set_plan(PrecisionPlan("e4m3", {"0/weights/update.master": "bf16"}))
    with pytest.raises(PlanError, match="decides no slot.*0/bias/update"):
        net.set_plan(PrecisionPlan("e4m3", rules=[Rule("0", role="update", family="kernel", format="bf16")]))
    with pytest.raises(PlanError, match="decides no slot"):  # a rule for products, of a module that has none
        net.set_plan(PrecisionPlan("e4m3", rules=[Rule("1", keep="fp32")]))
    assert net.compilations == 1


def test_analyses_look_at_graphs_alone() -> None:
    net = compiled(policy=Uniform("e4m3", update=Precision("bf16", scaling="channel"), loss_scaling=8))
    x = torch.randn(4, 4)
    plan = PrecisionPlan("e4m3", {"0/weight/update.master": "bf16"}, default_update="fp16", loss_scaling=8)
    analysis = net.analyze(x, loss=lambda output: output.square().mean())
    assert analysis.predict(plan).loss == analysis.predict(PrecisionPlan("e4m3")).loss


@pytest.mark.parametrize("name", ["initial", "growth_factor", "backoff_factor"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("inf"), float("nan"), True, "2", None, 10**400])
def test_loss_scalings_are_checked(name: str, value: Any) -> None:
    with pytest.raises(PlanError, match=f"loss scaling: {name}"):
        LossScaling(**{name: value})


@pytest.mark.parametrize(
    "options",
    [{"growth_factor": 1.0}, {"backoff_factor": 1.0}, {"growth_interval": 0}, {"growth_interval": 2.0}, {"dynamic": 1}],
)
def test_loss_scalings_within_their_ranges(options: dict[str, Any]) -> None:
    with pytest.raises(PlanError, match=f"loss scaling: {next(iter(options))}"):
        LossScaling(**options)


def test_the_command_line_shows_them(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    from precc.cli import main

    MANY.save(tmp_path / "plan.json")
    main(["plan", "show", str(tmp_path / "plan.json")])
    assert "updates in momentum float8_e4m3fn/tensor" in capsys.readouterr().out


def test_policies_pass_rules_of_updates_on() -> None:
    net = compiled(policy="bf16")
    analysis = net.analyze(torch.randn(4, 4), loss=lambda output: output.square().mean())
    rules = [Rule("0", role="update", format="bf16"), Rule("0", role="wgrad", keep="fp32")]
    for policy in (precc.ErrorBudget(gradient=0.1), precc.Threshold(10.0)):
        plan = policy.assign(analysis, rules=rules)
        assert plan.precision("0/weight/update.master") == Precision("bf16")
        net.set_plan(plan, recompile=True)


def test_updates_have_no_amax_history() -> None:
    net = compiled()
    state = net.precision_state() | {"amax": {"0/weight/update.master": [1.0]}}
    with pytest.raises(PlanError, match="sums and updates have none"):
        net.load_precision_state(state)


def test_updates_and_loss_scaling_of_another_plan() -> None:
    plan = PrecisionPlan(
        "bf16", {"a/product/fprop.weight": "fp16", "a/weight/update.master": "fp16"}, rules=[Rule("z", format="fp16")]
    )
    other = PrecisionPlan(
        "e4m3",
        {"a/product/fprop.input": "fp16", "a/weight/update.step": "fp16"},
        default_update={"gradient": "bf16"},
        loss_scaling=LossScaling(8.0, dynamic=True),
        rules=[Rule("b", format="e5m2"), Rule("b", role="update", format="e5m2")],
    )
    found = with_updates_of(plan, other)
    assert found == PrecisionPlan(
        "bf16",
        {"a/product/fprop.weight": "fp16", "a/weight/update.step": "fp16"},
        default_update={"gradient": "bf16"},
        loss_scaling=LossScaling(8.0, dynamic=True),
        rules=[Rule("b", role="update", format="e5m2"), Rule("z", format="fp16")],
    )
    assert with_updates_of(found, other) is found
    assert with_updates_of(plan, plan) is plan
