"""Reports for pages: made up, of any size and with anything in them, and of a real training."""

import random
from collections.abc import Callable
from dataclasses import replace

import torch
from torch.nn import functional as F

import precc
from precc.cost.plan_cost import PlanCost
from precc.history import History
from precc.models.lenet5 import LeNet5
from precc.models.mnist import load_mnist
from precc.plan import PrecisionPlan
from precc.report.analysed_step import AnalysedStep, GroupCalibration
from precc.report.choice_table import ChoiceGroup, ChoiceTable
from precc.report.error_figures import ErrorFigures
from precc.report.layer_row import LayerRow
from precc.report.precision_report import PrecisionReport
from precc.report.slot_row import Band, SlotRow, SlotValues
from precc.report.source_listing import SourceLine, SourceListing
from precc.slots import Slot
from precc.source_places import Place

LEAVES = ("fprop.input", "fprop.weight", "dgrad.grad_output", "dgrad.weight", "wgrad.input", "wgrad.grad_output")
LABELS = (
    "float4_e2m1fn/tensor:float32",
    "float8_e4m3fn/tensor:float32",
    "float8_e5m2/tensor:float32",
    "bfloat16",
    "float32",
)
BITS = {"float4_e2m1fn": 4.0, "float8_e4m3fn": 8.0, "float8_e5m2": 8.0, "bfloat16": 16.0, "float32": 32.0}
BANDS = {"float4_e2m1fn": (-1, 0, 2.6), "float8_e4m3fn": (-9, -6, 8.8), "float8_e5m2": (-16, -14, 15.8)}
BANDS |= {"bfloat16": (-133, -126, 128), "float32": (-149, -126, 128)}

Namer = Callable[[int], str]


def layer_name(number: int) -> str:
    return f"blocks.{number // 4}.{('attn.qkv', 'attn.out', 'mlp.up', 'mlp.down')[number % 4]}"


def random_table(groups: int, choices: int, seed: int = 0, forbidden: float = 0.0) -> ChoiceTable:
    """Costs that grow and errors that fall with the bits, in their own measure for each group."""
    draw = random.Random(seed)
    bits = sorted(draw.uniform(4, 32) for _ in range(choices))
    made = []
    for group in range(groups):
        work, weight = draw.lognormvariate(0, 1.5), draw.lognormvariate(-8, 3)
        costs = [work * own * draw.uniform(0.9, 1.1) for own in bits]
        gradient = [weight * 4.0**-own * draw.uniform(0.5, 2) for own in bits]
        barred = {k for k in range(choices - 1) if draw.random() < forbidden}
        own_costs = tuple(float("inf") if k in barred else cost for k, cost in enumerate(costs))
        made.append(ChoiceGroup((f"g{group}/product/fprop.input",), own_costs, tuple(gradient), tuple(gradient)))
    labels = tuple(f"e{2 + k}m{2 + k}" for k in range(choices))
    return ChoiceTable(labels, tuple(bits), "bits", tuple(made))


def made_up(
    layers: int = 8,
    decisions: int = 40,
    plans: int = 5,
    *,
    name: Namer = layer_name,
    seed: int = 0,
    title: str = "MadeUp",
) -> PrecisionReport:
    """A whole report of a net that there is not."""
    draw = random.Random(seed)
    ops = [f"{name(k)}/product" for k in range(layers)]
    chosen = {f"{op}/{leaf}": draw.randrange(len(LABELS)) for op in ops for leaf in LEAVES}
    rows = tuple(_slot_row(slot, LABELS[choice], draw) for slot, choice in chosen.items())
    plan = _plan(chosen)
    history = _history(list(chosen), decisions, plans, draw)
    groups = tuple(_group(slot, choice, draw) for slot, choice in chosen.items())
    return PrecisionReport(
        title=title,
        rows=tuple(_layer_row(op, rows[k * 6 : k * 6 + 6], draw, layers) for k, op in enumerate(ops)),
        notes=("compiled: 2 graph(s) by reference", "not rounded: no product that precc knows of"),
        plan=plan,
        slots=rows,
        history=history,
        step=AnalysedStep(
            2.3,
            1.7,
            "64 examples",
            "abc",
            ErrorFigures(1e-4, 2e-3, 0.11),
            ErrorFigures(2e-4, 3e-3, 0.13),
            4,
            0.93,
            (GroupCalibration("fprop.weight", 12, 1.1, 0.9),),
        ),
        cost=PlanCost(3.2e9, "bit operations", "BitOps()"),
        choices=ChoiceTable(LABELS, tuple(BITS.values()), "bits of operands", groups),
        source=(
            SourceListing(
                "Net.forward",
                "net.py",
                tuple(SourceLine(k + 7, f"    x = self.layer{k}(x)", (op,)) for k, op in enumerate(ops[:6])),
            ),
        ),
    )


def _plan(chosen: dict[str, int]) -> PrecisionPlan:
    scaling = precc.Scaling("tensor", scale_format="float32")
    made = [precc.Precision(own.partition("/")[0], scaling=scaling if "/" in own else None) for own in LABELS]
    return PrecisionPlan(
        "float32", {slot: made[choice] for slot, choice in chosen.items()}, dict.fromkeys(chosen, 1000)
    )


def _slot_row(name: str, label: str, draw: random.Random) -> SlotRow:
    fmt = label.partition("/")[0]
    center, width = draw.uniform(-12, 4), draw.uniform(2, 5)
    exponents = [round(center) + k for k in range(-8, 7)]
    counts = [int(1000 * 2.718 ** (-((e - center) ** 2) / (2 * width**2))) for e in exponents]
    values = SlotValues(
        sum(counts) + 100,
        100,
        0,
        2.0 ** exponents[-1],
        2.0 ** exponents[0],
        tuple(pair for pair in zip(exponents, counts, strict=True) if pair[1]),
        draw.choice([0.0, 0.0004, 0.03]),
        0.0,
    )
    error = draw.lognormvariate(-5, 1)
    return SlotRow(
        Slot.parse(name),
        label,
        fmt,
        BITS[fmt],
        fmt != "float32",
        10**6,
        values,
        Band(*BANDS[fmt]),
        draw.lognormvariate(2, 1),
        500.0,
        ErrorFigures(0.0, error / 10, error),
        ErrorFigures(0.0, error / 10, error * draw.lognormvariate(0, 0.3)),
    )


def _layer_row(op: str, slots: tuple[SlotRow, ...], draw: random.Random, layers: int) -> LayerRow:
    error = sum(row.predicted.gradient**2 for row in slots if row.predicted) ** 0.5
    layer, _, own = op.rpartition("/")
    return LayerRow(
        layer,
        own,
        (slots[0].precision, slots[2].precision, slots[4].precision),
        3 * 10**6,
        1 / layers,
        1e-5,
        draw.uniform(1, 9),
        40.0,
        ErrorFigures(0.0, error / 10, error),
        ErrorFigures(0.0, error / 9, error * draw.lognormvariate(0, 0.3)),
        draw.uniform(0.5, 1.5) / layers,
        "default of the plan",
        Place("net.py", 12, "x = self.fc(x)"),
    )


def _group(slot: str, choice: int, draw: random.Random) -> ChoiceGroup:
    work, weight = draw.lognormvariate(0, 1), draw.lognormvariate(-6, 2)
    costs = tuple(work * own for own in BITS.values())
    gradient = tuple(weight * 4.0**-own for own in (1, 3, 2, 7, 23))
    return ChoiceGroup((slot,), costs, tuple(own / 100 for own in gradient), gradient, choice)


def _history(slots: list[str], decisions: int, plans: int, draw: random.Random) -> History:
    history = History()
    every = [
        PrecisionPlan("e4m3", {slot: draw.choice(["e4m3", "bf16", "fp32"]) for slot in slots[k::97]})
        for k in range(plans)
    ]
    for step in range(decisions):
        event = draw.choices(["accept", "reject", "refine", "coarsen"], [20, 4, 1, 1])[0]
        loss = None if step % 9 == 4 else 2.3 * 0.97**step + 0.1 * draw.random()
        plan = every[step % plans]
        history.note(step=step, controller="TrustRegion", event=event, reason="rho 0.4 of 0.1", plan=plan, loss=loss)
    return history


def trained(steps: int = 30) -> precc.PrecisionModule:
    """LeNet-5 after steps of a trust region on MNIST, in e4m3 until they are so short that it is too coarse."""
    torch.manual_seed(0)
    mnist = load_mnist(None)
    net = precc.compile(LeNet5(), backend="reference")
    optimizer = precc.TrustRegion(net, momentum=0.5)
    for k in range(steps):
        if k == steps // 2:
            optimizer.param_groups[0]["lr"] = 0.002
        x, y = mnist.train_images[16 * k : 16 * k + 16], mnist.train_labels[16 * k : 16 * k + 16]
        optimizer.step(lambda x=x, y=y: F.cross_entropy(net(x), y))
    return net


def without_parts(report: PrecisionReport) -> PrecisionReport:
    """The same net before it ran: nothing is known but what it is."""
    return replace(
        report,
        rows=(),
        slots=(),
        history=History(),
        step=None,
        cost=None,
        choices=None,
        source=(),
        missing=("errors: net.analyze(x, loss=...) first",),
    )


def hostile_name(number: int) -> str:
    """Names that a page, a script or a chart could take for something else."""
    return (
        "<img src=x onerror=alert(1)>",
        "</script><script>alert(2)</script>",
        "a\u2028b\u2029c<!--<script>",
        "&lt;b&gt; \"quoted\" 'single' `tick` ${alert(3)} {{script}}",
        "<a href='javascript:alert(4)'>%{x}</a>",
        "\x00\x07 tab\t\ud800 \N{SNOWMAN}\U0001f600",
    )[number]


def real_report() -> PrecisionReport:
    """LeNet-5 after 30 steps of a trust region, analysed and measured."""
    net = trained()
    mnist = load_mnist(None)
    x, y = mnist.train_images[:16], mnist.train_labels[:16]
    analysis = net.analyze(x, loss=lambda output: F.cross_entropy(output, y))
    return net.report(analysis, measure=2)
