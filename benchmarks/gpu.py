"""What the Triton kernels take on this GPU, beside what others do there.

Kernels run as nets run them: they are noted in a step of a net and then run again by themselves, and nets as a whole.
First come the kernels' tests, on the GPU. Every row is a ratio, of which more is better: `measured` is the time of the
other way over ours, or our bytes a second over those of a copy. Outputs and gradients are compared with float64; a row
whose error is too large is not met. Times are medians of `triton.testing.do_bench`.
Writes benchmarks/results/gpu-<device>.json.

usage: python benchmarks/gpu.py [--no-tests]
"""

import argparse
import copy
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import precc
from precc.backends.triton.load import Launch, launches
from precc.files import write_whole

ROOT = Path(__file__).resolve().parent.parent
PLAN = "e4m3/tensor"

#: Relative root mean square of e4m3 operands: 2**-4 / sqrt(3) each at most, of two, and of the layers behind them.
ERROR = 0.15

Timer = Callable[[Callable[[], object]], float]


@dataclass(frozen=True)
class Sizes:
    """Of what is timed; the hidden size of the block is four heads."""

    rows: int = 8192
    features: int = 4096
    hidden: int = 2048
    tokens: int = 2048


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Args:
        name: what is compared, with its size.
        wanted: the least ratio.
        measured: None if no kernel of ours ran.
        met: whether it is reached, with an error that is small enough.
        error: relative root mean square beside float64.
    """

    name: str
    wanted: float
    measured: float | None
    met: bool
    error: float


class Block(nn.Module):
    """A layer of a Llama: attention and a gated MLP, each behind RMSNorm and beside a shortcut."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.before, self.between = nn.RMSNorm(hidden), nn.RMSNorm(hidden)
        self.qkv, self.out = nn.Linear(hidden, 3 * hidden, bias=False), nn.Linear(hidden, hidden, bias=False)
        self.gate, self.up = (nn.Linear(hidden, 3 * hidden, bias=False) for _ in range(2))
        self.down = nn.Linear(3 * hidden, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, hidden = x.shape
        split = self.qkv(self.before(x)).view(batch, tokens, 3, 4, hidden // 4)
        q, k, v = split.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(x.shape)
        x = x + self.out(mixed)
        own = self.between(x)
        output: Tensor = x + self.down(F.silu(self.gate(own)) * self.up(own))
        return output


def median_seconds(run: Callable[[], object]) -> float:
    from triton.testing import do_bench

    return 1e-3 * float(do_bench(run, return_mode="median"))


def relative_error(found: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    """Root mean square of the difference over that of the exact values, the worst of several tensors."""
    pairs = [(own.detach().double().cpu(), other.detach().cpu()) for own, other in zip(found, exact, strict=True)]
    return max(float((own - other).square().mean().sqrt() / other.square().mean().sqrt()) for own, other in pairs)


def step(net: nn.Module, x: Tensor) -> list[Tensor]:
    """Output and gradients of one forward and backward."""
    net.zero_grad()
    output = net(x)
    output.backward(torch.ones_like(output) / output.shape[-1])
    return [output, *(own.grad for own in net.parameters() if own.grad is not None)]


def row(name: str, wanted: float, measured: float | None, error: float) -> Row:
    return Row(name, wanted, measured, measured is not None and measured >= wanted and error <= ERROR, error)


def noted(model: nn.Module, x: Tensor, backend: str = "triton") -> tuple[list[Launch], float]:
    """The kernels of a step under the plan, and the error of what it gives."""
    net = precc.compile(copy.deepcopy(model), plan=uniform(), backend=backend)
    step(net, x)  # what is kept from one step to the next is there in the second
    with launches() as seen:
        found = step(net, x)
    return seen, relative_error(found, step(copy.deepcopy(model).double(), x.double()))


def of_template(seen: Sequence[Launch], template: str) -> list[Launch]:
    return [own for own in seen if own.source.template == template]


def bandwidth_row(name: str, seen: Sequence[Launch], error: float, copied: float, timer: Timer) -> Row:
    """Bytes a second of kernels, one after another, over those of a copy."""
    moved = sum(own.source.bytes for own in seen)
    measured = moved / timer(lambda: [own() for own in seen]) / copied if seen else None
    return row(name, 0.85, measured, error)


def copy_bandwidth(size: int, device: str, timer: Timer) -> float:
    x = torch.zeros(size, dtype=torch.bfloat16, device=device)
    y = torch.empty_like(x)
    return 2 * x.numel() * x.itemsize / timer(lambda: y.copy_(x))


def scaled_mm(m: int, n: int, k: int, device: str) -> Callable[[], object]:
    a, b = (torch.randn(own, k, device=device).to(torch.float8_e4m3fn) for own in (m, n))
    one = torch.ones((), device=device)
    return lambda: torch._scaled_mm(a, b.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16, use_fast_accum=True)


def product_row(sizes: Sizes, seen: Sequence[Launch], error: float, device: str, timer: Timer) -> Row:
    """The first product of the step, which is that of the forward."""
    name = f"e4m3 product, {sizes.rows} x {sizes.features} x {sizes.features}, beside torch._scaled_mm"
    own = of_template(seen, "product")[:1]
    other = scaled_mm(sizes.rows, sizes.features, sizes.features, device)
    return row(name, 0.9, timer(other) / timer(own[0]) if own else None, error)


def net_row(name: str, wanted: float, model: nn.Module, x: Tensor, timer: Timer) -> Row:
    """A step under the plan beside the same in bfloat16 by torch.compile."""
    net = precc.compile(copy.deepcopy(model), plan=uniform(), backend="triton")
    other = torch.compile(model)
    error = relative_error(step(net, x), step(copy.deepcopy(model).double(), x.double()))
    return row(name, wanted, timer(lambda: step(other, x)) / timer(lambda: step(net, x)), error)


def uniform() -> precc.PrecisionPlan:
    name, _, scaling = PLAN.partition("/")
    return precc.Uniform(name, scaling=scaling).assign()


def rows(sizes: Sizes, device: str = "cuda", timer: Timer = median_seconds) -> list[Row]:
    torch.manual_seed(0)
    make = {"dtype": torch.bfloat16, "device": device}
    n, h = sizes.features, sizes.hidden
    linear = nn.Linear(n, n, bias=False).to(**make)
    normed = nn.Sequential(nn.RMSNorm(n), nn.Linear(n, n, bias=False)).to(**make)
    x, tokens = torch.randn(sizes.rows, n, **make), torch.randn(4, sizes.tokens, h, **make)
    copied = copy_bandwidth(sizes.rows * n, device, timer)
    seen, error = noted(linear, x)
    others, other_error = noted(normed, x)
    casts, norms = of_template(seen, "cast"), of_template(others, "rows")
    return [
        product_row(sizes, seen, error, device, timer),
        bandwidth_row("casts to e4m3 in both layouts, beside a copy", casts, error, copied, timer),
        bandwidth_row("RMSNorm and cast to e4m3, beside a copy", norms, other_error, copied, timer),
        net_row(f"linear, forward and backward, {sizes.rows} x {n} x {n}, beside bfloat16", 1.2, linear, x, timer),
        net_row(f"block of a Llama, {h} wide, beside bfloat16", 1.0, Block(h).to(**make), tokens, timer),
    ]


def document(found: Sequence[Row], device: str, driver: str) -> dict[str, Any]:
    import triton

    versions = {
        "torch": str(torch.__version__),
        "cuda": str(torch.version.cuda),
        "triton": triton.__version__,
        "precc": precc.__version__,
        "python": platform.python_version(),
    }
    return {"device": device, "driver": driver, "versions": versions, "rows": [asdict(own) for own in found]}


def driver_version() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.partition("\n")[0].strip()


def tests_pass() -> bool:
    """The kernels' tests on the GPU, in a process of their own."""
    files = sorted(str(own) for own in ROOT.glob("tests/test_triton_*.py"))
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", *files]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, "TRITON_INTERPRET": "0"}).returncode == 0


def result_path(device: str) -> Path:
    name = re.sub(r"\W+", "-", device).strip("-").lower()
    return ROOT / "benchmarks" / "results" / f"gpu-{name}.json"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-tests", dest="tests", action="store_false", help="leave out the kernels' tests")
    chosen = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("torch finds no GPU on this machine: run this where one is", file=sys.stderr)
        return 1
    if chosen.tests and not tests_pass():
        print("the kernels' tests fail on this GPU: nothing is timed", file=sys.stderr)
        return 1
    device = torch.cuda.get_device_name()
    found = rows(Sizes())
    write_whole(result_path(device), (json.dumps(document(found, device, driver_version()), indent=1) + "\n").encode())
    for own in found:
        print(f"{own.measured} of {own.wanted} ({'met' if own.met else 'not met'}), error {own.error:.3f}: {own.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
