"""Files of analyses that somebody edited, with checksums mended: errors of ours that name file and entry."""

import copy
import math
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import precc
from precc.errors import AnalysisError, PreccError

PLANS = [precc.PrecisionPlan("e4m3"), precc.Uniform("e4m3", scaling="row", accumulator="e5m10").assign()]


class Pooled(nn.Module):
    """With a rectifier and a maximum, whose elements flip."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 2, 3, padding=1), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.fc(F.max_pool2d(torch.relu(self.conv(x)), 2).flatten(1))
        return found


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    torch.manual_seed(0)
    net = precc.compile(Pooled(), policy=precc.Uniform("e4m3", scaling="row"), backend="reference")
    options = precc.AnalysisOptions(probes=3, sums=4, samples=64)
    found = net.analyze(
        torch.randn(5, 1, 4, 4), loss=lambda out: F.cross_entropy(out, torch.arange(5) % 3), options=options
    )
    found.calibration.note("fprop.weight", loss=2.0, gradient=1.5)
    path = tmp_path_factory.mktemp("step") / "step.precc"
    found.save(path)
    loaded: dict[str, Any] = torch.load(path, weights_only=True)
    return loaded


def use(analysis: precc.Analysis) -> None:
    """What may be asked of a loaded analysis; errors of ours are answers."""
    candidates = ["e4m3", "bf16"]
    for ask in (
        lambda: [str(analysis.predict(plan)) for plan in PLANS],
        lambda: analysis.forward_errors(PLANS[1]),
        lambda: precc.ErrorBudget(loss=0.05, candidates=candidates).assign(analysis),
        lambda: precc.HessianBudget(10, candidates=candidates).assign(analysis),
        lambda: precc.ImportanceBudget(10, candidates=candidates).assign(analysis),
        lambda: precc.Threshold(10.0, "node").assign(analysis),
        lambda: precc.Threshold(10.0, "channel").shares(analysis),
        lambda: (repr(analysis), analysis.digest, analysis.refresh_interval(0.1)),
    ):
        try:
            ask()
        except PreccError:
            continue


def edited(document: dict[str, Any], path: Path, place: tuple[Any, ...], value: Any) -> Path:
    """A file with another value there, and checksums that fit; without the entry for `...`."""
    own = copy.deepcopy(document)
    at = own
    for step in place[:-1]:
        at = at[step]
    if value is ...:
        del at[place[-1]]
    else:
        at[place[-1]] = value(at[place[-1]]) if callable(value) else value
    torch.save(own, path)
    return path


SENSITIVITIES = ("findings", "sensitivities")
SAMPLE, SUMS = (*SENSITIVITIES, "samples", 0), (*SENSITIVITIES, "sums", 0)
RECORD = ("records", "pairs", 0, 1)
IN_RECORD = "records['conv/product/fprop.input']"
IN_SAMPLE, IN_SUMS = ("findings.sensitivities." + own for own in ("samples[0]", "sums[0]"))


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("title",), ..., "it has no entry 'title'"),
        (("title",), 3, "title is 3, not a text"),
        (("seconds",), math.nan, "seconds is nan, not a number of at least 0"),
        (("seconds",), -1.0, "seconds is -1.0, not a number of at least 0"),
        (("batch", "rows"), 10, "batch.rows is 10, not a part of the batch"),
        (("batch", "of"), True, "batch.of is True, not a whole number"),
        (("calibration",), [], "the precision_state has a calibration that is none"),
        (("records",), [], "records is [], not a table"),
        (("records", "pairs", 1), lambda own: own[:1], "records[1] is "),
        (("records", "pairs"), lambda own: own + own[:1], "not another one than those before"),
        (("records", "pairs"), lambda own: own[1:], "records is ['conv/product/fprop.weight'], not both operands of"),
        ((*RECORD, "multiply_adds"), ..., f"{IN_RECORD} has no entry 'multiply_adds'"),
        ((*RECORD, "multiply_adds"), -4, f"{IN_RECORD}.multiply_adds is -4, not a number of at least 0"),
        ((*RECORD, "multiply_adds"), 4, "multiply_adds is 1440, not 4, as conv/product/fprop.input has"),
        ((*RECORD, "outputs"), 2.0, f"{IN_RECORD}.outputs is 2.0, not a whole number"),
        ((*RECORD, "speed"), 2.0, f"{IN_RECORD} has an unknown entry 'speed': expected one of 'slot'"),
        ((*RECORD, "slot", "name"), "conv", f"{IN_RECORD}.slot.name: slot name 'conv' is not"),
        ((*RECORD, "slot", "name"), "fc/product/fprop.input", "not the slot by whose name it goes"),
        ((*RECORD, "slot", ""), "Precision", f"{IN_RECORD}.slot is "),
        ((*RECORD, "value_range", "amax"), "1.5", f"{IN_RECORD}.value_range.amax is '1.5', not a number"),
        ((*RECORD, "value_range", "amax"), 10**400, f"{IN_RECORD}.value_range.amax is 1000"),
        ((*RECORD, "value_range", "histogram"), [[1]], ".histogram[0] is [1], not a list of 2"),
        ((*RECORD, "value_range", "losses", "pairs", 0, 0, "json"), "nonsense", "losses[0][0].json: unknown format"),
        ((*RECORD, "value_range", "losses", "pairs", 0, 0, "json"), {}, "losses[0][0].json: "),
        ((*RECORD, "condition"), [], f"{IN_RECORD}.condition is [], not a Condition"),
        ((*RECORD, "condition", "bound"), 1, ".condition.bound is 1, not true or false"),
        ((*SAMPLE, "values"), None, f"{IN_SAMPLE}.values is None, not a tensor of real numbers"),
        ((*SAMPLE, "values"), lambda own: own[:-1], f"{IN_SAMPLE}.weights is a tensor of (80,), not one of (79)"),
        ((*SAMPLE, "values"), lambda own: own.long(), f"{IN_SAMPLE}.values is a tensor of (80,), not one of real"),
        ((*SAMPLE, "values"), lambda own: own.bool(), f"{IN_SAMPLE}.values is a tensor of (80,), not a tensor of"),
        ((*SAMPLE, "weights"), lambda own: -own, f"{IN_SAMPLE}.weights is a tensor of (80,), not without negative"),
        ((*SAMPLE, "amax"), lambda own: own.reshape(1), f"{IN_SAMPLE}.amax is a tensor of (1,), not one of ()"),
        ((*SAMPLE, "elements"), 2, f"{IN_SAMPLE}.elements is 2, not at least the 80 that are sampled"),
        ((*SAMPLE, "slots"), [], f"{IN_SAMPLE}.slots is (), not the slots that read the values"),
        ((*SAMPLE, "slots", 0, "name"), "b/c", f"{IN_SAMPLE}.slots[0].name is 'b/c', not a slot with a record"),
        (
            (*SAMPLE, "slots", 0, "gradient"),
            lambda own: own[:-1],
            "gradient is a tensor of (3, 80), not one of (2, 80)",
        ),
        ((*SAMPLE, "slots", 0, "sums"), None, f"{IN_SAMPLE}.slots[0].sums is None, not there where the loss is"),
        ((*SAMPLE, "slots", 0, "sums", "numbers"), lambda own: own.flip(0), "not ascending numbers below 8192"),
        ((*SAMPLE, "slots", 0, "sums", "slopes"), lambda own: own[1:], ".sums.slopes is a tensor of ("),
        ((*SAMPLE, "slots", 0, "sums", "lost"), "x", ".sums.lost is 'x', not a tensor of real numbers"),
        ((*SENSITIVITIES, "samples"), lambda own: own[1:], "findings.sensitivities.samples is ["),
        ((*SENSITIVITIES, "exact_probes"), 4, "exact_probes is 4, not at most 3 probes"),
        ((*SENSITIVITIES, "gradient_norm"), 1e200, "gradient_norm is 1e+200, not a number up to 1e150"),
        (
            (*SENSITIVITIES, "traces", "pairs", 0, 1),
            lambda own: own[1:],
            "traces['conv/product/fprop.weight'] is a ten",
        ),
        ((*SENSITIVITIES, "displacements", "pairs", 0, 1), -1.0, "displacements['conv/product/fprop.input'] is -1.0"),
        ((*SENSITIVITIES, "flips", 0, "drawn"), -1.0, "flips[0].drawn is -1.0, not a number of at least 0"),
        ((*SENSITIVITIES, "flips", 0, "squares"), lambda own: own[:, 1:], "flips[0].squares is a tensor of (3, "),
        ((*SUMS, "left"), lambda own: own[:, 1:], f"{IN_SUMS}.right is a tensor of (4, 9), not one of (4, 8)"),
        ((*SUMS, "slots"), lambda own: own[:1], f"{IN_SUMS}.slots is ['conv/product/fprop.input'], not a list of 2"),
        ((*SUMS, "slots", 1), "fc", f"{IN_SUMS}.slots[1] is 'fc', not such a slot"),
        ((*SUMS, "gradient_totals"), lambda own: own[1:], f"{IN_SUMS}.gradient_totals is ("),
        ((*SUMS, "loss_totals", "squares"), 1e308, f"{IN_SUMS}.loss_totals.squares is 1e+308, not a number up to"),
        (("findings", "gains", "nodes", 0, "arguments"), [["x", -1.0]], "nodes[0].arguments[0][1] is -1.0"),
        (
            ("findings", "gains", "nodes", 0, "arguments"),
            [],
            "findings.gains.nodes[0].arguments is (), not one or more",
        ),
        (("findings", "components", "pairs", 0, 1, "quantiles"), [1.0], "quantiles is (1.0,), not 65 numbers"),
        (("findings", "components", "pairs", 0, 1, "activation"), "mish2", "activation is 'mish2', not one of"),
        (("findings", "jumps"), {}, "findings.jumps is {}, not a list"),
    ],
)
def test_an_edited_entry_is_named(
    place: tuple[Any, ...], value: Any, message: str, document: dict[str, Any], tmp_path: Path
) -> None:
    path = edited(document, tmp_path / "step.precc", place, value)
    with pytest.raises(AnalysisError, match=f"step.precc' holds no analysis: .*{re.escape(message)}"):
        precc.Analysis.load(path)


def leaves(document: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    pairs = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for name, own in pairs:
        yield (*place, name), own
        yield from leaves(own, (*place, name))


PLAIN: list[Any] = [..., "nonsense", None, [], {}, 7, True, math.nan, math.inf, -1, -1.5, 0, 1e300, 10**400]
OF_TENSORS: list[Callable[[Tensor], Any]] = [
    lambda own: own * math.nan,
    lambda own: -own - 1,
    lambda own: own * 0,
    lambda own: own.double() * 1e200,
    lambda own: torch.cat([own.reshape(-1), own.reshape(-1)[:1]]),
    lambda own: own[..., :-1] if own.dim() else own.reshape(1),
    lambda own: own.new_zeros(0),
    lambda own: own.half(),
    lambda own: own.to(torch.complex64),
    lambda own: own.to_sparse() if own.dim() else own,
    lambda own: torch.empty(own.shape, device="meta"),
]


def test_edited_files_never_fail_otherwise(document: dict[str, Any], tmp_path: Path) -> None:
    """Drawn among all entries, as many of each name; what loads can be used."""
    chance, by_name = random.Random(0), dict[str, list[tuple[tuple[Any, ...], Any]]]()
    for place, own in leaves(document):
        name = ".".join(step for step in place if isinstance(step, str))
        by_name.setdefault(name, []).append((place, own))
    loaded = 0
    for name in chance.sample(sorted(by_name), 40):
        place, own = chance.choice(by_name[name])
        longer: list[Any] = [lambda old: old + old[:1], lambda old: old[:-1]] if isinstance(own, list) else []
        value = chance.choice([*PLAIN, *longer] if not isinstance(own, Tensor) else [*PLAIN, *OF_TENSORS])
        path = edited(document, tmp_path / "step.precc", place, value)
        try:
            analysis = precc.Analysis.load(path)
        except AnalysisError:
            continue
        use(analysis)
        loaded += 1
    assert loaded >= 3


def test_a_whole_document_is_read_and_used(document: dict[str, Any], tmp_path: Path) -> None:
    path = edited(document, tmp_path / "step.precc", ("title",), "Pooled")
    use(precc.Analysis.load(path))


def test_condition_numbers_may_be_as_large_as_numbers_are(document: dict[str, Any], tmp_path: Path) -> None:
    own = copy.deepcopy(document)
    dict(own["findings"]["conditions"]["pairs"])["convolution"] |= {"maximum": 1e300, "rms": 1e300}
    path = tmp_path / "step.precc"
    torch.save(own, path)
    found = precc.Analysis.load(path).forward_errors(PLANS[1])
    assert 1e290 < found["view"].probabilistic < found["addmm"].probabilistic
