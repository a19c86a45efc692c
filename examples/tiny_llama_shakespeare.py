"""A tiny Llama of Hugging Face learns Shakespeare by the character, in fp32 and in three lower precisions.

The net is compiled once. Each run is another plan, from the same start and on the same batches as the other runs of
its seed. Prints the loss on the validation text at the end of the runs, computed in each run's own precision, and
writes all curves to OUT/tiny_llama_shakespeare.json. Needs `pip install transformers`. About 3 minutes on 2 cores.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import precc
from precc.models.shakespeare import Shakespeare, draw_windows, load_shakespeare

try:
    from transformers import LlamaConfig, LlamaForCausalLM
except ModuleNotFoundError as error:
    raise SystemExit(f"{error}: pip install 'transformers>=5'") from None

LENGTH, BATCH, LEARNING_RATE = 64, 16, 3e-3
VALIDATION_BATCHES = 16
STEPS_A_POINT = 10  # a point of a curve is the mean of so many losses
BASELINE = "fp32"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed, 20 steps, a minute: to see that it runs")
    parser.add_argument("--data", help="a text file in the place of the eight plays that ship")
    parser.add_argument("--seeds", type=int, help="default 3")
    parser.add_argument("--steps", type=int, help="of each run; default 400")
    parser.add_argument("--backend", default="cpp", help="default cpp, the quickest to compile")
    parser.add_argument("--out", type=Path, default=Path("out"), help="default out")
    chosen = parser.parse_args()
    seeds = chosen.seeds if chosen.seeds is not None else 1 if chosen.quick else 3
    steps = chosen.steps if chosen.steps is not None else 20 if chosen.quick else 400
    if min(seeds, steps) < 1:
        parser.error(f"--seeds and --steps are at least 1, not {seeds} and {steps}")

    try:
        text = load_shakespeare(chosen.data)
    except precc.PreccError as error:
        raise SystemExit(str(error)) from None
    runs = all_runs(text, seeds, steps, chosen.backend)
    Console().print(table(runs))
    setting = {"text": text.source.name, "seeds": seeds, "steps": steps, "batch": BATCH, "length": LENGTH}
    document = {"setting": {**setting, "learning_rate": LEARNING_RATE, "steps_a_point": STEPS_A_POINT}, "runs": runs}
    chosen.out.mkdir(parents=True, exist_ok=True)
    path = chosen.out / "tiny_llama_shakespeare.json"
    path.write_text(json.dumps(document, indent=1) + "\n")
    print(f"wrote {path}")


def tiny_llama(vocabulary: int, seed: int) -> LlamaForCausalLM:
    """Two layers of width 64; 102,464 parameters with the plays' 76 characters."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=168,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config)


def plans(net: precc.PrecisionModule) -> dict[str, precc.PrecisionPlan]:
    """The precisions to compare, by name; the scaled one has gradients in e5m2. Of a net whose slots are known."""
    scaling = precc.Scaling("tensor", scale_format="fp32")
    forward, backward = (precc.Precision(name, scaling=scaling) for name in ("e4m3", "e5m2"))
    gradients = {slot: backward for slot in net.plan.slots if slot.endswith(".grad_output")}
    return {
        BASELINE: precc.PrecisionPlan("fp32"),
        "bf16": precc.PrecisionPlan("bf16"),
        "scaled e4m3/e5m2": precc.PrecisionPlan(forward, gradients),
        "unscaled e4m3": precc.PrecisionPlan("e4m3"),
    }


def all_runs(text: Shakespeare, seeds: int, steps: int, backend: str) -> list[dict[str, Any]]:
    """A record of each run: every precision, from every seed."""
    net = precc.compile(tiny_llama(len(text.vocabulary), seed=0), backend=backend)
    windows = draw_windows(text.validation_tokens, LENGTH, BATCH, torch.Generator().manual_seed(0))
    net(input_ids=windows, labels=windows)  # from here on all slots are known
    compared, runs = plans(net), []
    with Progress() as progress:
        task = progress.add_task("", total=seeds * len(compared) * steps)
        for seed in range(seeds):
            start = tiny_llama(len(text.vocabulary), seed).state_dict()
            for name, plan in compared.items():
                progress.update(task, description=f"{name}, seed {seed}")
                net.load_state_dict(start)
                net.set_plan(plan)
                curve = train(net, text, seed, steps, lambda: progress.advance(task))
                record = {"precision": name, "seed": seed, "average_bits": net.plan.average_bits}
                runs.append({**record, "validation_loss": validation_loss(net, text), "training_losses": curve})
    return runs


def train(
    net: precc.PrecisionModule, text: Shakespeare, seed: int, steps: int, advance: Callable[[], None]
) -> list[float]:
    """Steps of AdamW on batches that the seed draws; the curve of the loss."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(net.parameters(), lr=LEARNING_RATE)
    losses = []
    for _ in range(steps):
        windows = draw_windows(text.train_tokens, LENGTH, BATCH, generator)
        loss = net(input_ids=windows, labels=windows).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        advance()
    points = [losses[first : first + STEPS_A_POINT] for first in range(0, steps, STEPS_A_POINT)]
    return [round(statistics.fmean(point), 4) for point in points]


@torch.no_grad()
def validation_loss(net: precc.PrecisionModule, text: Shakespeare) -> float:
    """Mean over the same windows of the validation text each time, in the precision that the net has."""
    generator = torch.Generator().manual_seed(0)
    net.eval()
    losses = []
    for _ in range(VALIDATION_BATCHES):
        windows = draw_windows(text.validation_tokens, LENGTH, BATCH, generator)
        losses.append(net(input_ids=windows, labels=windows).loss.item())
    net.train()
    return statistics.fmean(losses)


def table(runs: list[dict[str, Any]]) -> Table:
    """Validation losses over the seeds, and how far their mean is above that of fp32."""
    losses: dict[str, list[float]] = {}
    for run in runs:
        losses.setdefault(run["precision"], []).append(run["validation_loss"])
    result = Table("precision", "bits", "validation loss", "range", f"above {BASELINE}")
    for name, own in losses.items():
        bits = next(run["average_bits"] for run in runs if run["precision"] == name)
        above = statistics.fmean(a - b for a, b in zip(own, losses[BASELINE], strict=True))
        result.add_row(
            name, f"{bits:g}", f"{statistics.fmean(own):.4f}", f"{min(own):.4f} to {max(own):.4f}", f"{above:+.4f}"
        )
    return result


if __name__ == "__main__":
    main()
