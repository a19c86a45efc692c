"""Plans by AutoQuantize of NVIDIA's modelopt and by precc, at the same effective bits, measured in one emulator.

The tiny Llama of examples/tiny_llama_shakespeare.py, trained from several seeds. modelopt chooses for each of its
groups of linear layers (q, k and v; gate and up; each other one) among INT4 and FP8 e4m3, of weights and inputs alike
with one scale a tensor, and no quantisation, which it counts as 16 bits; by its methods "gradient", its default, and
"kl_div". Its solver, CBC, has absolute tolerances, and scores are squares of gradients; so the first method is run with
the loss times 1000 too. precc has the same windows of text, and chooses
- in the same space: the same groups and candidates, the same effective bits (of weights, by their elements), by MILP(),
  as modelopt's solver is one, and by the default solver beside it;
- without groups: the same by MILP(), but each layer by itself;
- each operand: weight and input of each linear layer apart, from the default candidates, float32 counted as 32 bits;
- all operands: those of the products of attention too, at as many average bits of all operands of the forward.
Beside these the best uniform candidate, and random plans of the same space. All are measured on batches of the
validation text: the root mean square of the error of the loss in independent draws, and the loss of the net under the
plan less the loss without rounding. So that plans of modelopt are shown to be translated well, the model that it
returns is evaluated beside the net under the same plan, with the scales that modelopt calibrated. Writes
benchmarks/results/modelopt_plans.json, a row a seed, budget and plan, as soon as it has those of a seed and budget.

Needs modelopt 0.47: .venv/bin/python -m pip install -c constraints.txt "nvidia-modelopt==0.47.*" requests

usage: python benchmarks/modelopt_plans.py [--seeds N] [--again]
"""

import argparse
import copy
import importlib.metadata
import json
import math
import re
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any

import torch
from environment import environment
from rich.progress import track
from torch import Tensor, nn

import precc
from precc.accumulation.accumulator import Accumulator
from precc.analysis.analysis import Analysis
from precc.assignment.candidates import scaled
from precc.assignment.milp import MILP
from precc.cost.work import ProductWork, StepWork, TensorWork
from precc.files import write_whole
from precc.models.shakespeare import Shakespeare, draw_windows, load_shakespeare
from precc.slots import Role, Slot

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "examples"))
from tiny_llama_shakespeare import BATCH, LEARNING_RATE, LENGTH, tiny_llama  # noqa: E402

try:
    import modelopt.torch.quantization as mtq
except ModuleNotFoundError as error:
    command = '.venv/bin/python -m pip install -c constraints.txt "nvidia-modelopt==0.47.*" requests'
    raise SystemExit(f"{error}: {command}") from None

RESULT = HERE / "results" / "modelopt_plans.json"
STEPS = 400
BUDGETS = (6.0, 8.0, 12.0)
SEARCH_BATCHES, HELD_OUT_BATCHES = 4, 16  # of the training text, to choose from; of the validation text
MEASURED_BATCHES, DRAWS = 4, 8  # the first of those held out; draws of each
RANDOM_PLANS, RANDOM_DRAWS = 10, 2
#: How modelopt scores, and what its loss is multiplied by.
METHODS = {
    "modelopt gradient": ("gradient", 1.0),
    "modelopt gradient, loss times 1000": ("gradient", 1000.0),
    "modelopt kl_div": ("kl_div", 1.0),
}
PROBES = 8
OPERANDS = ("input", "weight")
TRANSLATED = "largest_difference_of_the_two"

FLOAT = precc.Precision("float32")
INT4, FP8 = scaled("int4"), scaled("e4m3")
SAME = (INT4, FP8, FLOAT)
UNQUANTISED_BITS = 16.0
#: Products of attention stay in float32.
NO_ATTENTION = tuple(precc.Rule(operand=operand, keep="float32") for operand in ("a", "b"))
#: A format of modelopt that ships with no name: both operands in INT4, one scale a tensor.
INT4_CONFIG = {
    "quant_cfg": [
        {"quantizer_name": "*", "enable": False},
        *(
            {"quantizer_name": f"*{operand}_quantizer", "cfg": {"num_bits": 4, "axis": None}}
            for operand in ("weight", "input")
        ),
    ],
    "algorithm": "max",
}
BITS_OF_MODELOPT: dict[Any, precc.Precision] = {4: INT4, (4, 3): FP8}


@dataclass(frozen=True, slots=True)
class WeightBits:
    """Bits of the operands of linear layers, weighted by the elements of weights: modelopt's measure, as a cost model.

    Args:
        elements: of all weights.
        alike: whether both operands of a layer have one precision; float32 then counts as modelopt counts it.
    """

    elements: int
    alike: bool
    unit: str = "bits"

    def bits(self, precision: precc.Precision) -> float:
        return UNQUANTISED_BITS if self.alike and precision == FLOAT else float(precision.bits)

    def product(
        self, work: ProductWork, pair: tuple[int, int], first: precc.Precision, second: precc.Precision
    ) -> float:
        operands = [slot.operand for slot in work.operands]
        if "weight" not in operands:
            return 0.0
        if self.alike and first != second:
            return math.inf
        return work.elements[operands.index("weight")] / self.elements * (self.bits(first) + self.bits(second)) / 2

    def sums(self, work: ProductWork, accumulator: Accumulator | None) -> float:
        return 0.0

    def copy(self, tensor: TensorWork, precision: precc.Precision) -> float:
        return 0.0

    def constant(self, step: StepWork) -> float:
        return 0.0


@dataclass(frozen=True)
class Errors:
    """Root mean square of the error of the loss in draws, and held-out loss less the loss without rounding."""

    loss_error: float
    difference: float


@dataclass(frozen=True)
class Case:
    """A trained model with the windows to choose from and to measure on."""

    model: nn.Module
    search: tuple[Tensor, ...]
    held_out: tuple[Tensor, ...]

    @classmethod
    def trained(cls, text: Shakespeare, seed: int) -> "Case":
        model: nn.Module = tiny_llama(len(text.vocabulary), seed)
        generator = torch.Generator().manual_seed(seed)
        optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
        for _ in range(STEPS):
            windows = draw_windows(text.train_tokens, LENGTH, BATCH, generator)
            optimizer.zero_grad()
            loss_of(model, windows).backward()
            optimizer.step()
        search = [draw_windows(text.train_tokens, LENGTH, BATCH, generator) for _ in range(SEARCH_BATCHES)]
        held_out = [draw_windows(text.validation_tokens, LENGTH, BATCH, generator) for _ in range(HELD_OUT_BATCHES)]
        return cls(model.eval(), tuple(search), tuple(held_out))

    @cached_property
    def net(self) -> precc.PrecisionModule:
        return precc.compile(self.model, backend="reference")

    @cached_property
    def analysis(self) -> Analysis:
        """Of all windows to choose from, as one batch."""
        windows = torch.cat(self.search)
        return self.net.analyze(input_ids=windows, labels=windows, options=precc.AnalysisOptions(probes=PROBES))

    @cached_property
    def steps(self) -> list[Analysis]:
        """To measure in, of batches that were held out; their own estimates are not used."""
        options = precc.AnalysisOptions(probes=1, samples=64)
        batches = self.held_out[:MEASURED_BATCHES]
        return [self.net.analyze(input_ids=own, labels=own, options=options) for own in batches]

    @cached_property
    def weights(self) -> dict[str, int]:
        """Elements of the weight of each linear layer."""
        layers = {name: own for name, own in self.model.named_modules() if isinstance(own, nn.Linear)}
        return {name: own.weight.numel() for name, own in layers.items()}

    @cached_property
    def groups(self) -> list[tuple[str, ...]]:
        """Linear layers that modelopt gives one format, by its rules."""
        groups: dict[str, list[str]] = {}
        for name in self.weights:
            fused = re.sub(r"(q|k|v)_proj$", "qkv", re.sub(r"(gate|up)_proj$", "gate_up", name))
            groups.setdefault(fused, []).append(name)
        return [tuple(own) for own in groups.values()]

    @cached_property
    def exact(self) -> list[float]:
        """Losses of the batches that were held out, without rounding."""
        return losses(self.model, self.held_out)

    def check_measures(self) -> None:
        """Multiply-adds of linear layers are proportional to the elements of weights, so that both measures agree."""
        tokens = {self.analysis.multiply_adds[slot_of(name, "weight")] / own for name, own in self.weights.items()}
        if len(tokens) != 1:
            raise RuntimeError(f"multiply-adds an element of the weights are not alike: {sorted(tokens)}")

    def plan(self, choices: dict[str, precc.Precision]) -> precc.PrecisionPlan:
        """Of the forward, with one precision for both operands of each linear layer."""
        return self.of_slots({slot_of(name, operand): own for name, own in choices.items() for operand in OPERANDS})

    def of_slots(self, slots: dict[str, precc.Precision]) -> precc.PrecisionPlan:
        return precc.PrecisionPlan("float32", slots, self.analysis.multiply_adds)

    def weight_bits(self, plan: precc.PrecisionPlan) -> float:
        """Effective bits as modelopt counts them: of the weights alone."""
        own = {name: plan.precision(slot_of(name, "weight")) for name in self.weights}
        bits = {name: UNQUANTISED_BITS if one == FLOAT else one.bits for name, one in own.items()}
        return float(sum(bits[name] * size for name, size in self.weights.items()) / sum(self.weights.values()))

    def operand_bits(self, plan: precc.PrecisionPlan) -> float:
        """Average bits of all operands of the forward, those of attention too; float32 counts as 32."""
        work = {name: own for name, own in self.analysis.multiply_adds.items() if "/fprop." in name}
        return float(sum(own * plan.precision(name).bits for name, own in work.items()) / sum(work.values()))

    def errors(self, plan: precc.PrecisionPlan, draws: int) -> Errors:
        if (plan, draws) not in self._measured:
            found = torch.cat([own.draws(plan, draws).loss for own in self.steps])
            errors = Errors(float(found.square().mean().sqrt()), statistics.fmean(self.differences(plan)))
            self._measured[plan, draws] = errors
        return self._measured[plan, draws]

    @cached_property
    def _measured(self) -> dict[tuple[precc.PrecisionPlan, int], Errors]:
        return {}

    def differences(self, plan: precc.PrecisionPlan) -> list[float]:
        """Losses of the net under a plan less those without rounding, of each batch that was held out."""
        self.net.set_plan(plan)
        return [own - exact for own, exact in zip(losses(self.net, self.held_out), self.exact, strict=True)]


def slot_of(layer: str, operand: str) -> str:
    return f"{layer}/product/fprop.{operand}"


def loss_of(model: nn.Module, windows: Tensor) -> Tensor:
    loss: Tensor = forward(model, windows).loss
    return loss


@torch.no_grad()
def losses(model: nn.Module, batches: tuple[Tensor, ...]) -> list[float]:
    return [loss_of(model, own).item() for own in batches]


@dataclass(frozen=True, slots=True)
class Quantised:
    """A copy of the model, quantised as AutoQuantize chose.

    Args:
        effective_bits: as modelopt counts them.
    """

    model: nn.Module
    effective_bits: float

    @classmethod
    def by_modelopt(cls, case: Case, bits: float, method: str, scale: float) -> "Quantised":
        gradient = method == "gradient"  # the other one wants logits, and no loss
        model, state = mtq.auto_quantize(
            copy.deepcopy(case.model),
            constraints={"effective_bits": bits},
            quantization_formats=[INT4_CONFIG, mtq.FP8_DEFAULT_CFG],
            data_loader=list(case.search),
            forward_step=forward if gradient else logits,
            loss_func=(lambda output, windows: scale * output.loss) if gradient else None,
            num_calib_steps=SEARCH_BATCHES,
            num_score_steps=SEARCH_BATCHES,
            method=method,
        )
        return cls(model.eval(), float(state["best"]["constraints"]["effective_bits"]))


def forward(model: nn.Module, windows: Tensor) -> Any:
    return model(input_ids=windows, labels=windows)


def logits(model: nn.Module, windows: Tensor) -> Any:
    return model(input_ids=windows).logits


def choices_of(case: Case, quantised: Quantised) -> dict[str, precc.Precision]:
    """The precision of each linear layer."""
    layers: dict[str, Any] = {name: quantised.model.get_submodule(name) for name in case.weights}
    found = {name: _precision(own) for name, own in layers.items()}
    for group in case.groups:
        if len({found[name] for name in group}) > 1:
            raise RuntimeError(f"modelopt gave {', '.join(group)} more than one format")
    return found


def _precision(layer: Any) -> precc.Precision:
    """Of both operands, which modelopt quantises alike."""
    if layer.output_quantizer.is_enabled or layer.weight_quantizer.is_enabled != layer.input_quantizer.is_enabled:
        raise RuntimeError(f"not weight and input alone are quantised: {layer}")
    if not layer.weight_quantizer.is_enabled:
        return FLOAT
    if layer.weight_quantizer.num_bits != layer.input_quantizer.num_bits:
        raise RuntimeError(f"weight and input are not quantised alike: {layer}")
    return BITS_OF_MODELOPT[layer.weight_quantizer.num_bits]


def with_its_scales(case: Case, quantised: Quantised) -> precc.PrecisionPlan:
    """The choice of modelopt, with the scales that it calibrated, in the place of those of each batch."""
    slots = {}
    for name, own in choices_of(case, quantised).items():
        for operand in OPERANDS:
            quantiser = getattr(quantised.model.get_submodule(name), f"{operand}_quantizer")
            slots[slot_of(name, operand)] = own if own == FLOAT else _static(own, float(quantiser.amax))
    return case.of_slots(slots)


def _static(precision: precc.Precision, magnitude: float) -> precc.Precision:
    largest = 7.0 if precision == INT4 else 448.0
    return precc.Precision(precision.format, scaling=precc.Scaling("static", value=magnitude / largest))


def faithful(case: Case, quantised: Quantised) -> dict[str, float]:
    """Held-out losses of modelopt's own model less those without rounding, and those of the net under the same plan."""
    own = [a - b for a, b in zip(losses(quantised.model, case.held_out), case.exact, strict=True)]
    translated = case.differences(with_its_scales(case, quantised))
    apart = max(abs(a - b) for a, b in zip(own, translated, strict=True))
    return {
        "difference_in_modelopt": statistics.fmean(own),
        "difference_in_precc_with_its_scales": statistics.fmean(translated),
        TRANSLATED: apart,
    }


def ours(case: Case, bits: float) -> dict[str, precc.PrecisionPlan]:
    """Each by its own space."""
    total = sum(case.weights.values())
    # INT4 with one scale a tensor loses more than 1% of the squares of some tensors: modelopt may choose it there too
    same: dict[str, Any] = {"candidates": SAME, "lost": 1.0, "inference": True}

    def within(policy: precc.CostBudget, *, alike: bool) -> precc.PrecisionPlan:
        return policy.assign(case.analysis, cost=WeightBits(total, alike), rules=NO_ATTENTION)

    return {
        "same space": within(precc.CostBudget(bits, share="tensor", solver=MILP(), **same), alike=True),
        "same space, default solver": within(precc.CostBudget(bits, share="tensor", **same), alike=True),
        "without groups": within(precc.CostBudget(bits, solver=MILP(), **same), alike=True),
        "each operand": within(precc.CostBudget(bits, inference=True), alike=False),
        "all operands": precc.BitBudget(bits, inference=True).assign(case.analysis),
    }


def random_plans(case: Case, bits: float) -> Iterator[precc.PrecisionPlan]:
    """Of the same space: from INT4 everywhere, random steps up by one group, as long as one fits."""
    for seed in range(RANDOM_PLANS):
        rng, choices = Random(seed), dict.fromkeys(case.weights, INT4)
        while steps := list(_steps_up(case, choices, bits)):
            choices = rng.choice(steps)
        yield case.plan(choices)


def _steps_up(case: Case, choices: dict[str, precc.Precision], bits: float) -> Iterator[dict[str, precc.Precision]]:
    for group in case.groups:
        for own in SAME[SAME.index(choices[group[0]]) + 1 :]:
            changed = {**choices, **dict.fromkeys(group, own)}
            if case.weight_bits(case.plan(changed)) <= bits:
                yield changed


def uniform(case: Case, bits: float) -> precc.PrecisionPlan:
    """The finest candidate that all linear layers may have."""
    plans = [case.plan(dict.fromkeys(case.weights, own)) for own in SAME]
    return max((own for own in plans if case.weight_bits(own) <= bits), key=case.weight_bits)


def described(case: Case, name: str, plan: precc.PrecisionPlan, draws: int) -> dict[str, Any]:
    """What is written of a plan; `predicted` is of the windows to choose from, four times as many as in a draw."""
    predicted = case.analysis.predict(plan)
    return {
        "plan": name,
        "weight_bits": case.weight_bits(plan),
        "operand_bits": case.operand_bits(plan),
        **vars(case.errors(plan, draws)),
        "predicted": math.hypot(predicted.loss, predicted.loss_mean),
        "lost": predicted.lost,
        "formats": formats_of(plan),
    }


def formats_of(plan: precc.PrecisionPlan) -> dict[str, str]:
    """Of both operands, input and weight or a and b, of each product of the forward that the plan names."""
    found: dict[str, list[str]] = {}
    for name, own in sorted(plan.slots.items()):
        slot = Slot.parse(name)
        if slot.role is Role.FPROP:
            found.setdefault(slot.op.removesuffix("/product"), []).append(own.format.name)
    return {op: ", ".join(own) for op, own in found.items()}


def rows_of(case: Case, seed: int, bits: float) -> list[dict[str, Any]]:
    rows = [of_modelopt(case, bits, name) for name in METHODS]
    rows += [described(case, name, own, DRAWS) for name, own in ours(case, bits).items()]
    rows.append(described(case, "uniform", uniform(case, bits), DRAWS))
    rows += [described(case, "random", own, RANDOM_DRAWS) for own in random_plans(case, bits)]
    return [{"seed": seed, "bits": bits, "loss": statistics.fmean(case.exact), **own} for own in rows]


def of_modelopt(case: Case, bits: float, name: str) -> dict[str, Any]:
    quantised = Quantised.by_modelopt(case, bits, *METHODS[name])
    plan = case.plan(choices_of(case, quantised))
    counted = case.weight_bits(plan)
    if abs(counted - quantised.effective_bits) > 1e-6:
        raise RuntimeError(f"modelopt counts {quantised.effective_bits} effective bits, and this script {counted}")
    return {**described(case, name, plan, DRAWS), **faithful(case, quantised)}


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over seeds; of random plans first over those of a seed."""
    told: dict[str, Any] = {}
    for bits in sorted({own["bits"] for own in rows}):
        for name in dict.fromkeys(own["plan"] for own in rows):
            own = [row for row in rows if (row["bits"], row["plan"]) == (bits, name)]
            told.setdefault(f"{bits:g} bits", {})[name] = _medians(own, [row for row in rows if row["bits"] == bits])
    own = [row for row in rows if TRANSLATED in row]
    return {**told, "largest difference of modelopt's model and its translation": max(row[TRANSLATED] for row in own)}


def _medians(own: list[dict[str, Any]], rows: list[dict[str, Any]]) -> dict[str, Any]:
    of_ours = {row["seed"]: row["loss_error"] for row in rows if row["plan"] == "same space"}
    seeds = sorted(of_ours)
    of_seed = {
        what: [statistics.median(row[what] for row in own if row["seed"] == seed) for seed in seeds]
        for what in ("loss_error", "difference", "weight_bits", "operand_bits")
    }
    factors = [found / of_ours[seed] for found, seed in zip(of_seed["loss_error"], seeds, strict=True)]
    return {
        **{what: statistics.median(found) for what, found in of_seed.items()},
        "loss error over ours in the same space": {
            "median": statistics.median(factors),
            "least": min(factors),
            "most": max(factors),
        },
    }


def write(rows: list[dict[str, Any]]) -> None:
    document = environment()
    document["versions"]["nvidia-modelopt"] = importlib.metadata.version("nvidia-modelopt")
    windows = {"search": SEARCH_BATCHES * BATCH, "held out": HELD_OUT_BATCHES * BATCH, "length": LENGTH}
    document |= {"setting": {"steps": STEPS, "windows": windows}, "summary": summary(rows), "rows": rows}
    write_whole(RESULT, (json.dumps(document, indent=1) + "\n").encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--again", action="store_true", help="measure rows that the file has already")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    text = load_shakespeare()
    rows: list[dict[str, Any]] = json.loads(RESULT.read_text())["rows"] if RESULT.exists() and not chosen.again else []
    done = {(own["seed"], own["bits"]) for own in rows}
    for seed in track(range(chosen.seeds), description="seeds"):
        left = [bits for bits in BUDGETS if (seed, bits) not in done]
        if left:
            case = Case.trained(text, seed)
            case.check_measures()
        for bits in left:
            rows += rows_of(case, seed, bits)
            write(rows)


if __name__ == "__main__":
    main()
