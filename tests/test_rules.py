"""Rules: which slots they fit, what comes first, that they hold over every plan, and what they refuse."""

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import precc
from precc import PrecisionPlan, Rule, TrustRegion
from precc.errors import FormatError, PlanError
from precc.first_match import first_match
from precc.models.lenet5 import LeNet5
from precc.module import session_of
from precc.precision import Precision
from precc.slots import Slot
from tests.nets import Stack, equal, inputs_of, loss_and_gradients, loss_of, uniform

X = inputs_of(Stack())

# --- which slots

SLOTS = [
    "product/fprop.a",
    "product#1/dgrad_b.grad_output",
    "blocks.0/product/fprop.weight",
    "blocks.0.attn/product/wgrad.input",
    "blocks.0.attn.q/product/dgrad.weight",
    "blocks.10/product/fprop.input",
    "lm_head/other/wgrad.grad_output",
    "LM_head/product/fprop.weight",
]


@pytest.mark.parametrize(
    ("patterns", "fitting"),
    [
        ({}, range(8)),
        ({"path": "*"}, range(8)),
        ({"path": ""}, [0, 1]),
        ({"path": "blocks.0"}, [2, 3, 4]),
        ({"path": "blocks.0.*"}, [3, 4]),
        ({"path": "blocks.1"}, []),
        ({"path": "blocks.?"}, [2, 3, 4]),
        ({"path": "blocks.1[0-9]"}, [5]),
        ({"path": "blocks.[!1]*"}, [2, 3, 4]),
        ({"path": "blocks"}, [2, 3, 4, 5]),
        ({"path": "*.q"}, [4]),
        ({"path": "*attn"}, [3, 4]),
        ({"path": "lm_head"}, [6]),
        ({"path": "blocks.0/product"}, []),
        ({"role": "wgrad"}, [3, 6]),
        ({"role": "dgrad*"}, [1, 4]),
        ({"role": "[dw]grad"}, [3, 4, 6]),
        ({"family": "product"}, [0, 1, 2, 3, 4, 5, 7]),
        ({"family": "oth*"}, [6]),
        ({"operand": "weight"}, [2, 4, 7]),
        ({"operand": "?"}, [0]),
        ({"path": "blocks.*", "role": "fprop", "operand": "input"}, [5]),
    ],
)
def test_patterns(patterns: dict[str, str], fitting: list[int]) -> None:
    rule = Rule(**patterns, format="bf16")  # type: ignore[arg-type]
    assert [position for position, name in enumerate(SLOTS) if rule.fits(Slot.parse(name))] == list(fitting)


def test_operands_and_sums_are_decided_apart() -> None:
    name, total = "fc/product/fprop.weight", "fc/product/fprop.accumulator"

    def decided(*rules: Rule) -> tuple[int | None, int | None]:
        match = first_match(rules)
        return match.position(name), match.position(total)

    assert decided(Rule("fc", keep="fp32")) == (0, 0)
    assert decided(Rule("fc", keep="fp32", operand="weight")) == (0, None)
    assert decided(Rule("fc", keep="fp32", operand="*")) == (0, None)
    assert decided(Rule("fc", format="fp32")) == (0, None)
    assert decided(Rule("fc", accumulator="fp16")) == (None, 0)
    assert decided(Rule("fc", accumulator="fp16"), Rule("fc", keep="bf16")) == (1, 0)
    assert decided(Rule("fc", format="e4m3"), Rule(keep="bf16")) == (0, 1)
    assert decided(Rule("fc", format="e4m3", accumulator="fp16"), Rule(keep="bf16")) == (0, 0)
    assert decided() == (None, None)


def test_the_first_that_fits_decides() -> None:
    rules = [Rule("fc.1", format="e5m2"), Rule("fc", keep="bf16"), Rule("*", format="e4m3", scaling="tensor")]
    plan = PrecisionPlan("fp32", {"fc.1/product/fprop.input": "fp16"}, rules=rules)
    assert plan.precision("fc.1/product/fprop.input") == plan.slots["fc.1/product/fprop.input"] == Precision("e5m2")
    assert plan.precision("fc.2/product/fprop.input") == Precision("bf16")
    assert plan.precision("conv/product/fprop.input") == Precision("e4m3", scaling="tensor")


# --- in a net, on numbers

RULES = [
    Rule("heads.main", keep="float32"),
    Rule("blocks.0.*", role="wgrad", format="bfloat16"),
    Rule("blocks.0", operand="grad_output", format="e5m2", rounding="toward_zero", scaling="tensor"),
    Rule("blocks.0", keep="fp16"),
    Rule("shared", role="dgrad", accumulator="e5m10"),
]


def spelled_out(slots: Any, base: PrecisionPlan) -> PrecisionPlan:
    """The plan that RULES lay over another, written slot by slot."""
    own, sums = {}, {}
    for name in slots:
        slot = Slot.parse(name)
        layer, role, total = slot.layer, slot.role.value, slot.accumulator.name
        own[name], sums[total] = base.precision(name), base.accumulator(total)
        if layer == "heads.main":
            own[name], sums[total] = Precision("float32"), None
        elif layer.startswith("blocks.0"):
            own[name], sums[total] = Precision("fp16"), None
            if slot.operand == "grad_output":
                own[name] = Precision("e5m2", "toward_zero", "tensor")
            if layer != "blocks.0" and role == "wgrad":
                own[name] = Precision("bfloat16")
        elif layer == "shared" and role == "dgrad":
            sums[total] = precc.Accumulator(format="e5m10")
    return PrecisionPlan(base.default, own, default_accumulator=base.default_accumulator, accumulators=sums)


def test_rules_are_the_plan_that_is_spelled_out_under_every_plan_without_compiling() -> None:
    model = Stack()
    ruled = precc.compile(model, backend="reference", rules=RULES)
    plain = precc.compile(model, backend="reference", policy=precc.Uniform("e4m3", accumulator="e5m7"))
    loss_of(plain, X).backward()
    slots = list(plain.plan.slots)
    named = PrecisionPlan("bf16", {name: "e4m3" for name in slots if "fprop" in name})
    levels = [uniform("float32"), precc.Uniform("e4m3", accumulator="e5m7").assign(), uniform("e4m3"), named]
    seen = []
    for level in levels:
        if level != uniform("float32"):  # the net has rules, and no plan
            ruled.set_plan(level)
        plain.set_plan(spelled_out(slots, level))
        ours = loss_and_gradients(ruled, X)
        assert equal(ours, loss_and_gradients(plain, X))
        plain.set_plan(level)
        assert not equal(ours, loss_and_gradients(plain, X))
        seen.append(ruled.plan)
        assert ruled.plan.slots == spelled_out(slots, level).slots
    assert len(set(seen)) == len(levels)
    assert ruled.compilations == 1


@pytest.mark.parametrize("backend", ["cpp", "inductor"])
def test_backends_follow_rules(backend: str) -> None:
    model = LeNet5()
    x = inputs_of(model)
    rules = [Rule("conv*", keep="fp32"), Rule("fc*", role="wgrad", format="e5m2")]
    net = precc.compile(model, backend=backend, policy="e4m3", rules=rules)
    ruled = loss_and_gradients(net, x)
    slots = {name: "fp32" for name in net.plan.slots if name.startswith("conv")}
    slots |= {name: "e5m2" for name in net.plan.slots if name.startswith("fc") and "wgrad" in name}
    plain = precc.compile(model, backend=backend, plan=PrecisionPlan("e4m3", slots))
    assert equal(ruled, loss_and_gradients(plain, x))


def test_an_inference_graph_follows_rules_too() -> None:
    rule = Rule("blocks.1", format="e2m1")
    net = precc.compile(Stack(), policy="bf16", backend="reference", rules=[rule, Rule("*", role="dgrad", keep="fp32")])
    with torch.no_grad():
        low = net(X)  # it has no dgrad: a rule may find its slots later
    assert torch.equal(low, net(X))
    assert net.plan.precision("blocks.1.key/product/fprop.weight") == Precision("e2m1")


def test_a_double_net_without_a_plan_stays_double_where_no_rule_is() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).double()
    net = precc.compile(model, backend="reference", rules=[Rule("1", keep="bf16")])
    x = torch.full((2, 4), 1 / 3, dtype=torch.float64)
    net(x).sum().backward()
    assert net.plan.precision("0/product/fprop.input") == Precision("float64")
    assert net.plan.precision("1/product/fprop.input") == Precision("bf16")


def test_a_switch_to_a_plan_that_fits_checks_nothing_again(monkeypatch: pytest.MonkeyPatch) -> None:
    net = precc.compile(Stack(), backend="reference", rules=RULES)
    loss_of(net, X).backward()
    plans = [PrecisionPlan(fmt, {name: "bf16" for name in list(net.plan.slots)[:9]}) for fmt in ("e4m3", "e5m2")]
    for plan in plans:
        net.set_plan(plan)

    def unexpected(*args: Any) -> None:
        raise AssertionError("a check reads thousands of slots")

    for name in ("check_slots", "check_decisions", "check_paths"):
        monkeypatch.setattr(f"precc.net_graphs.{name}", unexpected)
    for plan in (*plans, *plans):
        net.set_plan(plan)
        assert session_of(net).plan is plan.under(tuple(RULES))
    with pytest.raises(AssertionError, match="thousands"):
        net.set_plan(PrecisionPlan("e4m3"))  # not used before


def test_an_equal_plan_that_names_a_wrong_slot_is_no_plan_that_fits() -> None:
    net = precc.compile(Stack(), backend="reference")
    loss_of(net, X).backward()
    net.set_plan(uniform("e4m3"))
    with pytest.raises(PlanError, match="'fc9/product/fprop.input'"):
        net.set_plan(PrecisionPlan("e4m3", {"fc9/product/fprop.input": "e4m3"}))
    with pytest.raises(PlanError, match="Rule.'fc9', format='float8_e4m3fn'.: no module fits"):
        net.set_plan(PrecisionPlan("e4m3", rules=[Rule("fc9", format="e4m3")]))


# --- controllers


class Scaled(nn.Module):
    """A parabola through a product, so that formats act on it."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(1, 1, bias=False)
        nn.init.constant_(self.fc.weight, 1.7)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.fc(x).square().mean()
        return result


def region(rules: list[Rule], levels: tuple[str, ...], radius: float) -> tuple[TrustRegion, Callable[[], Tensor]]:
    net = precc.compile(Scaled(), backend="reference", rules=rules)
    return TrustRegion(net, radius=radius, levels=levels), lambda: net(torch.tensor([[1.1], [0.9]]))


def test_rules_hold_on_every_level_and_not_in_the_reference() -> None:
    opt, closure = region([Rule("fc", format="e2m1")], ("e4m3", "float32"), radius=1e-3)
    loss = opt.step(closure)
    # on e2m1's grid 1.7 is 1.5, and 1.1 and 0.9 are 1; the true loss is 2.92, and so neither level passes the gate
    assert loss.item() == 2.25
    assert opt.events["refine"] == opt.events["ungated"] == 1
    assert set(opt.net.precision_state()["multiply_adds"]) == {"float4_e2m1fn", "float32"}
    assert opt.net.plan.precision("fc/product/fprop.weight") == Precision("e2m1")
    assert opt.net.compilations == 1


def test_a_level_that_is_full_precision_under_its_rules_is_not_compared() -> None:
    opt, closure = region([Rule("fc", keep="float32")], ("float32",), radius=0.1)
    opt.step(closure)
    assert session_of(opt.net).builds.runs == 2  # at x, and at x + p
    opt, closure = region([Rule("fc", operand="weight", keep="bf16")], ("float32",), radius=0.1)
    opt.step(closure)
    assert session_of(opt.net).builds.runs == 3


def test_a_rule_that_overflows_is_found_out_and_the_plan_is_under_rules_again() -> None:
    opt, closure = region([Rule("fc", format="e2m1", scaling="tensor")], ("e4m3",), radius=0.1)
    opt.net.load_state_dict({"fc.weight": torch.full((1, 1), 3e38)})
    seen: list[PrecisionPlan] = []

    def huge() -> Tensor:
        seen.append(session_of(opt.net).plan)
        return closure()

    opt.step(huge)
    assert opt.events == {"nonfinite": 1, "reject": 1}
    assert [plan.rules for plan in seen] == [opt.net.plan.rules, ()]
    assert opt.net.plan.precision("fc/product/fprop.weight") == Precision("e2m1", scaling="tensor")


# --- values, files, copies


def test_plans_with_rules_are_values() -> None:
    name = "fc/product/fprop.input"
    rule, other = Rule("fc", format="bf16"), Rule("conv", format="bf16")
    plan = PrecisionPlan("e4m3", rules=[rule])
    assert plan == PrecisionPlan("e4m3", {name: "fp16"}, rules=[rule])
    assert hash(plan) == hash(PrecisionPlan("e4m3", {name: "fp16"}, rules=[rule]))
    assert plan != PrecisionPlan("e4m3") != PrecisionPlan("e4m3", rules=[other])
    assert PrecisionPlan("e4m3", rules=[rule, other]) != PrecisionPlan("e4m3", rules=[other])
    # what gives the defaults changes nothing where no rule comes after it
    for trailing in (Rule("fc", format="e4m3"), Rule("fc", keep="e4m3", required=False)):
        assert PrecisionPlan("e4m3", rules=[trailing]) == PrecisionPlan("e4m3")
        assert PrecisionPlan("e4m3", {name: "bf16"}, rules=[trailing]) == PrecisionPlan("e4m3")
        assert PrecisionPlan("e4m3", rules=[trailing, rule]) != plan
    kept = Rule("fc", keep="e4m3")
    assert PrecisionPlan("e4m3", default_accumulator="fp16", rules=[kept]) != PrecisionPlan(
        "e4m3", default_accumulator="fp16"
    )
    assert plan.under((rule,)) is plan
    assert plan.under((other,)).rules == (other, rule)
    assert plan.under((other,)) is plan.under((other,))
    assert plan.under(()) is plan
    for twin in (pickle.loads(pickle.dumps(plan)), copy.deepcopy(plan)):
        assert (twin, twin.rules) == (plan, plan.rules)
    assert not plan.rounds_sums
    assert PrecisionPlan("e4m3", rules=[Rule(accumulator="fp16")]).rounds_sums


def test_differences_between_rules() -> None:
    name, total = "fc/product/fprop.input", "fc/product/fprop.accumulator"
    before = PrecisionPlan("e4m3", {name: "fp16"}, default_accumulator="fp16", accumulators={total: "fp16"})
    after = PrecisionPlan("e4m3", default_accumulator="fp16", rules=[Rule("fc", keep="bf16")])
    assert [str(change) for change in before.diff(after)] == [
        "rules: none -> Rule('fc', keep='bfloat16')",
        f"{name}: float16 -> bfloat16",
        f"{total}: float16 -> own sums",
    ]
    assert not after.diff(after.resolve({name: 3}))


def test_a_printed_plan_has_its_rules_in_order() -> None:
    named = {"fc/product/fprop.input": "fp16", "conv/product/fprop.input": "fp16"}
    plan = PrecisionPlan("e4m3", named, rules=[Rule("fc", keep="bf16"), Rule("b*", role="wgrad", accumulator="fp16")])
    assert str(plan).splitlines() == [
        "plan: float8_e4m3fn in every slot but:",
        "  Rule('fc', keep='bfloat16')",
        "  Rule('b*', role='wgrad', accumulator='float16')",
        "  conv/product/fprop.input  float16",
    ]


def test_average_bits_count_what_rules_decide() -> None:
    net = precc.compile(
        nn.Sequential(nn.Linear(8, 4, bias=False), nn.Linear(4, 2, bias=False)),
        backend="reference",
        policy="e4m3",
        rules=[Rule("0", keep="fp32"), Rule("1", accumulator="fp16")],
    )
    with pytest.raises(PlanError, match="what the rules decide is not known"):
        _ = net.plan.average_bits
    net(torch.randn(5, 8)).sum().backward()
    assert net.plan.average_bits == (2 * 2 * 160 * 32 + 3 * 2 * 40 * 8) / (2 * 2 * 160 + 3 * 2 * 40)
    assert PrecisionPlan("e4m3", rules=[Rule("1", accumulator="fp16")]).average_bits == 8


EVERY_KIND = (
    *RULES,
    Rule("a*", family="prod*", operand="weight", format="mxfp8", rounding="stochastic:8", required=False),
    Rule("", keep=precc.FloatFormat(name="mine", exponent_bits=4, mantissa_bits=3)),
    Rule(role="dgrad_?", format="nvfp4", transform="hadamard", accumulator="hopper_fp8"),
    Rule("b", format="e4m3", scaling=precc.Scaling("tensor", scale_format="fp32", history=4)),
)


def test_json_goes_both_ways(tmp_path: Path) -> None:
    plan = PrecisionPlan("e4m3", {"fc/product/fprop.input": "bf16"}, rules=EVERY_KIND)
    back = PrecisionPlan.from_json(plan.to_json())
    assert (back, back.rules, back.to_json()) == (plan, plan.rules, plan.to_json())
    assert [repr(rule) for rule in back.rules] == [repr(rule) for rule in plan.rules]
    assert pickle.loads(pickle.dumps(EVERY_KIND)) == EVERY_KIND
    assert len(set(EVERY_KIND)) == len(EVERY_KIND)
    assert "rules" not in json.loads(PrecisionPlan("e4m3").to_json())
    document = json.loads(PrecisionPlan("e4m3").to_json())
    written = [{"path": "lm_head", "keep": "fp32"}, {"role": "wgrad", "format": "bf16"}]
    assert PrecisionPlan.from_json(json.dumps({**document, "rules": written})).rules == (
        Rule("lm_head", keep="fp32"),
        Rule(role="wgrad", format="bf16"),
    )


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"path": "a"}, "stands where a list of rules was expected"),
        (["a"], "'a' stands where an object"),
        ([{"paths": "a", "keep": "fp32"}], "unknown entry 'paths'"),
        ([{"path": "a"}], "a rule sets nothing"),
        ([{"path": "a", "keep": "fp7"}], "unknown format 'fp7'"),
        ([{"path": 3, "keep": "fp32"}], "the path of a rule"),
        ([{"path": "a", "rounding": "stochastic"}], "rounding= without a format"),
        ([{"path": "a", "keep": "fp32", "required": 1}], "required is True or False"),
    ],
)
def test_malformed_rules_in_a_file(rules: Any, message: str) -> None:
    document = {**json.loads(PrecisionPlan("e4m3").to_json()), "rules": rules}
    with pytest.raises(PlanError, match=message):
        PrecisionPlan.from_json(json.dumps(document))


def small(**options: Any) -> precc.PrecisionModule:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))
    return precc.compile(model, backend="reference", **options)


def gradients(net: precc.PrecisionModule) -> list[Tensor]:
    net.zero_grad()
    net(torch.linspace(-1, 1, 18).reshape(3, 6)).square().sum().backward()
    return [p.grad.clone() for p in net.parameters() if p.grad is not None]


LOW = Rule("2", format="e2m1")


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_copies_carry_the_rules(copier: Any) -> None:
    net = small(policy="e4m3", rules=[LOW])
    expected = gradients(net)
    twin = copier(net)
    assert equal(gradients(twin), expected)
    twin.set_plan(uniform("bf16"))
    assert twin.plan.precision("2/product/fprop.weight") == Precision("e2m1")


def test_the_nets_rules_come_before_those_of_a_plan(tmp_path: Path) -> None:
    PrecisionPlan("bf16", rules=[Rule("2", keep="fp32"), Rule("0", role="fprop", keep="fp16")]).save(tmp_path / "p")
    net = small(plan=tmp_path / "p", rules=[LOW])
    gradients(net)  # the net's rule leaves nothing to the plan's first, which is no error
    assert [rule.path for rule in net.plan.rules] == ["2", "2", "0"]
    chosen = {name: str(own) for name, own in net.plan.slots.items() if name.endswith("weight")}
    assert chosen == {
        "0/product/fprop.weight": "float16",
        "2/product/fprop.weight": "float4_e2m1fn",
        "2/product/dgrad.weight": "float4_e2m1fn",
    }
    before = net.plan
    net.set_plan(net.plan)
    assert net.plan == before
    assert net.plan.rules == before.rules
    net.set_plan(uniform("bf16"))  # a plan's rules leave with it
    assert net.plan.rules == (LOW,)


@pytest.mark.parametrize("policy", [None, "e4m3"])
def test_a_state_goes_on_in_a_net_with_the_same_rules_or_none(policy: str | None) -> None:
    net = small(policy=policy, rules=[LOW])
    expected = gradients(net)
    state = json.loads(json.dumps(net.precision_state()))
    for rules in ([LOW], []):
        fresh = small(rules=rules)
        fresh.load_precision_state(state)
        assert fresh.precision_state() == state
        assert equal(gradients(fresh), expected)
        fresh.set_plan(uniform("bf16"))
        assert fresh.plan.rules == (LOW,)


def test_a_state_in_a_net_with_other_rules() -> None:
    state = small(policy="e4m3", rules=[LOW]).precision_state()
    net = small(rules=[Rule("2", role="wgrad", keep="fp32")])
    net.load_precision_state(state)
    gradients(net)
    assert net.plan.precision("2/product/wgrad.input") == Precision("fp32")
    assert net.plan.precision("2/product/fprop.input") == Precision("e2m1")
    del state["rules"]
    old = small()
    old.load_precision_state(state)  # of a time without rules
    assert old.plan == uniform("e4m3")


def test_a_state_whose_rules_do_not_fit_changes_nothing() -> None:
    net = small(policy="e4m3")
    gradients(net)
    before = net.precision_state()
    accumulating = [{"path": "2", "accumulator": "e5m10"}]
    for rules, message in (([{"path": "9", "keep": "fp32"}], "no module fits"), (accumulating, "sums '2' in float16")):
        with pytest.raises(PlanError, match=message):
            net.load_precision_state({**before, "plan": None, "rules": rules})
        assert net.precision_state() == before
        assert net.plan == uniform("e4m3")


def test_a_rule_with_an_accumulator_builds_graphs_that_round_sums() -> None:
    net = small(policy="e4m3", rules=[Rule("2", accumulator="e4m3")])
    ruled = gradients(net)
    sums = {f"2/product/{role}.accumulator": "e4m3" for role in ("fprop", "dgrad", "wgrad")}
    assert equal(ruled, gradients(small(plan=PrecisionPlan("e4m3", accumulators=sums))))
    assert not equal(ruled, gradients(small(policy="e4m3")))
    other = small(policy="e4m3")
    gradients(other)
    plan = PrecisionPlan("e4m3", rules=[Rule("2", accumulator="e4m3")])
    with pytest.raises(PlanError, match="sums '2' in float8_e4m3fn, but the net's graphs were built without"):
        other.set_plan(plan)
    other.set_plan(plan, recompile=True)
    assert equal(ruled, gradients(other))


def test_the_report_lists_rules_and_what_they_decide() -> None:
    rules = [LOW, Rule(role="wgrad", accumulator="e5m10"), Rule("9", keep="fp32", required=False)]
    net = small(policy="e4m3", rules=rules)
    gradients(net)
    assert [note for note in net.report().notes if note.startswith("Rule")] == [
        "Rule('2', format='float4_e2m1fn') decides 6 slots",
        "Rule('*', role='wgrad', accumulator='float16') decides 0 slots and 2 accumulators",
        "Rule('9', keep='float32', required=False) decides 0 slots and 0 accumulators",
    ]


# --- errors


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, PlanError, "sets nothing: give it keep=, format= or accumulator="),
        ({"keep": "fp32", "format": "bf16"}, PlanError, "has keep= and format="),
        ({"keep": "fp32", "accumulator": "fp16"}, PlanError, "has keep= and accumulator="),
        ({"keep": "fp32", "rounding": "stochastic"}, PlanError, "has keep= and rounding="),
        ({"scaling": "tensor"}, PlanError, "scaling= without a format"),
        ({"accumulator": "fp16", "transform": "hadamard"}, PlanError, "transform= without a format"),
        ({"accumulator": "fp16", "operand": "weight"}, PlanError, "accumulator= and the operand 'weight'"),
        ({"keep": "fp32", "operand": "accumulator"}, PlanError, "the operand 'accumulator', which is none"),
        ({"keep": "fp32", "role": "backward"}, PlanError, "the role 'backward': expected one of 'fprop', 'dgrad'"),
        ({"keep": "fp32", "path": None}, PlanError, "the path of a rule is a pattern of names, .* not None"),
        ({"keep": "fp32", "family": 3}, PlanError, "the family of a rule is a pattern of names, .* not 3"),
        ({"keep": "fp32", "required": None}, PlanError, "required is True or False, not None"),
        ({"keep": "fp7"}, FormatError, "unknown format 'fp7'"),
        ({"format": "fp7"}, FormatError, "unknown format 'fp7'"),
        ({"format": "mxfp8", "scaling": "tensor"}, FormatError, "has a scaling of its own"),
        ({"format": "e4m3", "rounding": "up"}, FormatError, "unknown rounding 'up'"),
        ({"accumulator": "hopper"}, FormatError, "unknown accumulator 'hopper'"),
    ],
)
def test_rules_that_make_no_sense(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Rule(**options)


def test_rules_are_a_sequence_of_rules() -> None:
    for rules, message in ((LOW, "not Rule.'2'"), ("2", "not '2'"), ([LOW, "2"], "'2' is none"), (None, "not None")):
        with pytest.raises(PlanError, match=f"rules is a sequence of precc.Rule, .*{message}"):
            small(rules=rules)
        with pytest.raises(PlanError, match="rules is a sequence of precc.Rule"):
            PrecisionPlan("e4m3", rules=rules)  # type: ignore[arg-type]
    with pytest.raises(PlanError, match="slot name 'a' is not"):
        PrecisionPlan("e4m3", {"a": "bf16"}, rules=[LOW])


class TwoNames(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 4))
        self.decoder = self.encoder

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.decoder(self.encoder(x))
        return result


def test_a_path_that_fits_no_module_is_an_error_at_once() -> None:
    with pytest.raises(PlanError, match=r"Rule\('block\.0', .*\): no module fits .*did you mean 'blocks\.0'"):
        precc.compile(Stack(), rules=[Rule("block.0", keep="fp32")])
    with pytest.raises(PlanError, match=r"its modules are 'blocks', 'blocks\.0', .*required=False"):
        precc.compile(Stack(), rules=[Rule("q?", keep="fp32")])
    with pytest.raises(PlanError, match=r"the module 'decoder\.0' is also 'encoder\.0', and slots are named by that"):
        precc.compile(TwoNames(), rules=[Rule("decoder.0", keep="fp32")])
    with pytest.raises(PlanError, match="no module fits the path 'lm_head'"):
        precc.compile(Stack(), plan=PrecisionPlan("e4m3", rules=[Rule("lm_head", keep="fp32")]))
    precc.compile(Stack(), rules=[Rule("block.0", keep="fp32", required=False)])


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (
            [Rule("1", keep="fp32")],
            r"Rule\('1', .*\) decides no slot: there are none under its path .*, but '0/",
        ),
        (
            [Rule("0", role="dgrad", keep="fp32")],
            "under its path are '0/product/fprop.input', .*/wgrad.input';",
        ),
        ([Rule(operand="a", keep="fp32")], "decides no slot: under its path are"),
        ([Rule(family="sum", keep="fp32")], "decides no slot: under its path are"),
        (
            [Rule("0", keep="fp32"), Rule("2", format="e4m3"), Rule(format="bf16")],
            r"Rule\('\*', format='bfloat16'\) decides no slot: rules before it decide all that it fits, "
            r"Rule\('0', keep='float32'\) the slot '0/",
        ),
        ([LOW, LOW], r"rules before it decide all that it fits, Rule\('2', format='float4_e2m1fn'\)"),
    ],
)
def test_a_rule_that_decides_nothing_is_an_error_once_the_slots_are_known(rules: list[Rule], message: str) -> None:
    net = small(rules=rules)
    with torch.no_grad():
        net(torch.ones(2, 6))  # an inference graph has a subset
    for _ in range(2):
        with pytest.raises(PlanError, match=message):
            gradients(net)
    with pytest.raises(PlanError, match=message):
        net.set_plan(uniform("e4m3"))
    fields = ("path", "role", "family", "operand", "keep", "format")
    relaxed = [Rule(**{name: getattr(rule, name) for name in fields}, required=False) for rule in rules]
    gradients(small(rules=relaxed))


def test_a_plan_with_a_rule_that_decides_nothing_is_refused_and_the_old_one_stays() -> None:
    net = small(policy="e4m3")
    gradients(net)
    with pytest.raises(PlanError, match=r"Rule\('1', keep='float32'\) decides no slot"):
        net.set_plan(PrecisionPlan("bf16", rules=[Rule("1", keep="fp32")]))
    assert net.plan == uniform("e4m3")
