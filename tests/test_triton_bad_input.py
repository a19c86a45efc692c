"""Tensors that kernels must take as they are: of odd sizes and strides, empty, not finite; and folders that are not.

What machines lack is in `test_triton_toolchain.py`, what is far apart in memory in `test_triton_addresses.py`.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.fx import Graph, Node

import precc
from precc.accumulation.accumulator import Accumulator
from precc.accumulation.two_pass_rule import Choice, TwoPass, compute
from precc.backends.triton import compile_worker, compiler, load
from precc.backends.triton.compiler import compiled
from precc.backends.triton.device import DEVICES, INTERPRETER
from precc.backends.triton.facts import CompiledFacts
from precc.backends.triton.load import launches
from precc.backends.triton.products import KERNELS
from precc.backends.triton.rounding import ROUND_TRITON, round_triton
from precc.errors import BackendError
from precc.formats import Scaling, parse_format
from precc.packing import PACK
from precc.precision import Precision
from precc.round_op import ROUND
from precc.rounding import parse_rounding, quantize, row_of
from tests.few_always import few_always
from tests.test_triton_cast import both_layouts
from tests.test_triton_product import few_bits, within_bound
from tests.test_triton_two_pass import PAIRS, problem_of
from tests.triton_casts import KEY, built, live, same_bits
from tests.triton_products import ATEN, MadeProduct, rounding_row
from tests.triton_rows import (
    gated,
    layer_norm_backward,
    packed,
    plan_of,
    program_of,
    residual_layer_norm,
    rms_norm,
    rounded,
    softmax,
)
from tests.triton_sources import DOUBLED

NAN, INF = float("nan"), float("inf")
FORMATS = "e4m3 mxfp4 nvfp4 bfloat16 e5m2 mxfp8_e4m3 float16 tf32 int8 float32".split()
SIZES = ((1, 7, 13), (13, 17, 33), (33, 1, 7))


def biased(graph: Graph, product: Node, plan: Node, more: Sequence[Node]) -> Sequence[Node]:
    """A residual, relu, and results in all forms, of row 2."""
    total = graph.call_function(ATEN.add.Tensor, (product, more[-1]))
    active = graph.call_function(ATEN.relu.default, (total,))
    packs = [graph.call_function(PACK, (active, plan, 2, transposed)) for transposed in (False, True)]
    return [total, graph.call_function(ROUND, (active, plan, 2)), *packs]


def product_of(name: str, a: Tensor, b: Tensor, bias: Tensor, residual: Tensor, packed: str = "") -> MadeProduct:
    three = [rounding_row(name, None, axis) for axis in (-1, -2, -1)]
    return MadeProduct("addmm", a, b, three, biased, [bias, residual], packed=packed)


def is_reference(made: MadeProduct) -> None:
    for own, wanted in zip(made.ours(), made.reference(), strict=True):
        assert same_bits(own, wanted)


@pytest.mark.parametrize("name", few_always(FORMATS, FORMATS[:4]))
def test_products_of_odd_sizes(name: str) -> None:
    for rows, terms, columns in SIZES:
        a, b, residual = few_bits(rows, terms), few_bits(terms, columns), few_bits(rows, columns)
        for sides in ("", "ab"):
            if name == "nvfp4":  # its scales are no powers of two: sums are not exact
                both = [rounding_row(name, None, axis) for axis in (-1, -2)]
                within_bound(MadeProduct("mm", a, b, both, packed=sides))
            else:
                is_reference(product_of(name, a, b, few_bits(columns), residual, sides))


def windows(x: Tensor) -> Tensor:
    """Rows that share memory with the rows beside them."""
    flat = x.flatten()[: x.shape[0] + x.shape[1] - 1].contiguous()
    return flat.as_strided(x.shape, (1, 1))


def behind(x: Tensor) -> Tensor:
    """At an odd place of a larger memory."""
    memory = torch.full((x.numel() + 14,), NAN, dtype=x.dtype)
    return memory.as_strided(x.shape, x.stride(), 7).copy_(x)


def every_second(x: Tensor) -> Tensor:
    wider = torch.full((*x.shape[:-1], 2 * x.shape[-1]), NAN, dtype=x.dtype)
    return wider[..., ::2].copy_(x)


#: The values of a matrix, or others, in memory that is not as usual.
STRIDES: dict[str, Callable[[Tensor], Tensor]] = {
    "behind": behind,
    "every second": every_second,
    "columns first": lambda x: x.t().contiguous().t(),
    "expanded rows": lambda x: x[:1].expand_as(x),
    "expanded columns": lambda x: x[:, :1].expand_as(x),
    "expanded": lambda x: x[:1, :1].expand_as(x),
    "windows": windows,
    "upside down": lambda x: x.flip(0),  # torch has no negative strides: a copy
    "negated": lambda x: torch.complex(x, -x).conj().imag,
}
OFTEN = ("every second", "expanded columns", "windows", "negated")


@pytest.mark.parametrize("name", few_always(STRIDES, OFTEN))
def test_products_of_odd_strides(name: str) -> None:
    """Operands that are rounded as they are loaded, or cast before, bias and residual."""
    change = STRIDES[name]
    for fmt in ("e4m3", "mxfp8_e4m3"):
        a, b, bias, residual = few_bits(18, 20), few_bits(20, 12), few_bits(18, 12), few_bits(18, 12)
        made = product_of(fmt, change(a), change(b), change(bias), change(residual))
        made.args = [own.resolve_neg() for own in made.args]  # as the operator of a group is given them
        is_reference(made)


@pytest.mark.parametrize("name", few_always(STRIDES, OFTEN))
def test_casts_and_rows_of_odd_strides(name: str) -> None:
    x = STRIDES[name](torch.randn(18, 40))
    for scaling in (None, Scaling("tensor"), Scaling("row"), Scaling("block", size=16)):
        row = row_of(parse_format("e2m1"), parse_rounding("stochastic"), scaling, axis=-1, slot=3)
        wanted = quantize(x.resolve_neg(), row, KEY)
        assert same_bits(round_triton(x, row, KEY), wanted)
        plan = plan_of(Precision("e2m1", scaling=scaling))
        assert same_bits(ROUND_TRITON(x, plan, 0), ROUND(x, plan, 0))
    y, plan = STRIDES[name](torch.randn(18, 40)).resolve_neg(), plan_of(Precision("mxfp8"), Precision("e4m3"))
    args = [x.resolve_neg(), y]
    program, rows = program_of(lambda x, y, plan: rounded(x * y - y, plan), args, plan, INTERPRETER)
    wanted_rows = rounded(args[0] * y - y, plan)
    assert all(same_bits(own, exact) for own, exact in zip(program(args, rows), wanted_rows, strict=True))


def test_images_whose_channels_are_last() -> None:
    x = torch.randn(2, 5, 3, 7).to(memory_format=torch.channels_last)
    for scaling in (None, Scaling("tensor"), Scaling("channel"), Scaling("block", size=2)):
        row = row_of(parse_format("e4m3"), scaling=scaling, axis=1, channel=1)
        ours = round_triton(x, row)
        assert same_bits(ours, quantize(x, row))
        assert ours.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.slow
@pytest.mark.parametrize("name", STRIDES)
def test_nets_of_odd_strides(name: str) -> None:
    x = STRIDES[name](torch.randn(6, 16))
    found = []
    for backend in ("triton", "reference"):
        torch.manual_seed(0)
        model = nn.Sequential(nn.RMSNorm(16), nn.Linear(16, 12), nn.GELU(), nn.Linear(12, 3))
        net = precc.compile(model, policy="mxfp8", backend=backend)
        net(x).square().sum().backward()
        found.append([own.grad for own in model.parameters()])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("rows", "terms", "columns"), [(0, 5, 4), (6, 5, 0), (6, 0, 4), (0, 0, 0)])
def test_empty_products(rows: int, terms: int, columns: int) -> None:
    """Nothing is launched for nothing; a sum of no terms is the bias."""
    for name in ("e4m3", "mxfp8_e4m3", "mxfp4", "float32"):
        for sides in ("", "ab"):
            a, b, residual = few_bits(rows, terms), few_bits(terms, columns), few_bits(rows, columns)
            is_reference(product_of(name, a, b, few_bits(columns), residual, sides))


@pytest.mark.parametrize("shape", [(0, 6), (4, 0), (0, 0)])
def test_empty_casts(shape: tuple[int, int]) -> None:
    x = torch.randn(shape)
    for name in ("e4m3", "mxfp4", "nvfp4"):
        row = rounding_row(name)
        with launches() as ran:
            packs = built(both_layouts, x, row)([x], live(row))
        plan = plan_of(Precision(name))
        assert all(own.equal(PACK(x, plan, 0, bool(n))) for n, own in enumerate(packs))
        assert not ran


@pytest.mark.parametrize("shape", [(0, 6), (4, 0)])
def test_empty_sums_in_two_passes(shape: tuple[int, int]) -> None:
    a = torch.randn(shape)
    low, high = PAIRS["plain"]
    for b in (torch.randn(shape[1], 3), torch.randn(shape[1], 0)):
        problem = problem_of(a, b)
        found = compute(problem, low, high, Choice.of(2.0, None, "relu", "absolute", problem), 5, KERNELS)
        assert isinstance(found, TwoPass)
        assert found.result.equal(torch.zeros(shape[0], b.shape[1]))
        assert not found.recomputed.any()


def broken(x: Tensor) -> Tensor:
    """With NaN and both infinities, one each in a row of its own, and a row of -inf."""
    x[1, 2], x[2, 0], x[3, 3], x[4] = NAN, INF, -INF, -INF
    return x


@pytest.mark.parametrize("name", ["e4m3", "e5m2", "mxfp8_e4m3", "bfloat16", "int8"])
def test_products_with_bias_and_residual_that_are_not_finite(name: str) -> None:
    bias = few_bits(8)
    bias[1], bias[2], bias[3] = NAN, INF, -INF
    a, b = few_bits(18, 12), few_bits(12, 8)
    is_reference(product_of(name, a, b, bias, few_bits(18, 8)))
    is_reference(product_of(name, a, b, few_bits(8), broken(few_bits(18, 8))))
    is_reference(product_of(name, broken(a.clone()), b, bias, few_bits(18, 8)))


@pytest.mark.parametrize("scaling", [Scaling("tensor"), Scaling("row"), Scaling("block", size=16)], ids=str)
def test_scales_of_values_that_are_not_finite(scaling: Scaling) -> None:
    for sums in (None, Accumulator(format="e5m10")):
        both = [rounding_row("e4m3", scaling, axis) for axis in (-1, -2)]
        made = MadeProduct("mm", broken(few_bits(18, 32)), few_bits(32, 8), both, sums=sums)
        is_reference(made)


def norms() -> dict[str, tuple[Callable[..., object], list[Tensor]]]:
    x, y, vector = broken(torch.randn(18, 40)), torch.randn(18, 40), 1 + torch.randn(40) / 4
    _, mean, rstd = torch.native_layer_norm(x, [40], None, None, 1e-5)
    return {
        "rms norm": (rms_norm, [x, vector]),
        "layer norm": (residual_layer_norm, [x, y, vector, vector]),
        "its backward": (layer_norm_backward, [y, x, mean, rstd, vector]),
        "gated": (gated, [x, y]),
        "softmax": (softmax, [x]),
    }


@pytest.mark.parametrize("name", norms())
def test_rows_that_are_not_finite(name: str) -> None:
    """What rounds has the bits of the value, and the value is not finite where torch's is not."""
    function, args = norms()[name]

    def run(*args: Tensor) -> tuple[Tensor, ...]:
        made = function(*args[:-1])
        return packed(made[0] if isinstance(made, tuple) else made, args[-1])  # type: ignore[arg-type]

    plan = plan_of(Precision("e4m3", scaling=Scaling("row")), Precision("mxfp8"))
    program, rows = program_of(run, args, plan, INTERPRETER)
    value, codes, turned = program(args, rows)
    wanted = run(*args, plan)[0]
    assert value.isnan().equal(wanted.isnan())
    assert value.isinf().equal(wanted.isinf())
    torch.testing.assert_close(value, wanted, rtol=1e-4, atol=1e-4, equal_nan=True)
    assert codes.equal(PACK(value, plan, 0, False))
    assert turned.equal(PACK(value, plan, 2, True))


def test_a_net_goes_on_when_its_folder_can_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The error comes as it is, and costs nothing but the step."""
    (tmp_path / "file").write_text("no folder")
    torch.manual_seed(0)
    model, x = nn.Linear(11, 5), torch.randn(3, 11)
    net, reference = (precc.compile(model, policy="e5m2", backend=own) for own in ("triton", "reference"))
    load._function.cache_clear()
    monkeypatch.setenv("PRECC_CACHE", str(tmp_path / "file"))
    for _ in range(2):
        with pytest.raises(BackendError, match="set PRECC_CACHE to a folder that you can write"):
            net(x)
    monkeypatch.setenv("PRECC_CACHE", str(tmp_path))
    torch.testing.assert_close(net(x), reference(x), rtol=1e-5, atol=1e-6)
    net(x).sum().backward()


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> "Iterator[compiler._Worker]":
    made = compiler._Worker()
    monkeypatch.setattr(compiler, "_worker", made)
    yield made
    made.stop()


@pytest.mark.parametrize("suffix", few_always((".cubin", ".ptx", ".json"), [".ptx"]))
def test_a_cut_file_of_what_was_compiled(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, worker: "compiler._Worker", suffix: str
) -> None:
    monkeypatch.setenv("PRECC_CACHE", str(tmp_path))
    (whole,) = compiled([DOUBLED], DEVICES["sm_80"])
    assert isinstance(whole, CompiledFacts)
    kept = {own.suffix: own for own in (tmp_path / "triton" / "compiled").rglob("doubled.*")}
    before = kept[suffix].read_bytes()
    assert compile_worker._is_whole(whole.ptx, kept[".cubin"].read_bytes())
    kept[suffix].write_bytes(before[: len(before) // 2])
    assert compiled([DOUBLED], DEVICES["sm_80"]) == [whole]
    assert kept[suffix].read_bytes() == before


def test_threads_make_one_kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PRECC_CACHE", str(tmp_path))
    load._function.cache_clear()
    row, values = rounding_row("e3m4", Scaling("row")), [torch.randn(12, 20) for _ in range(8)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda x: round_triton(x, row), values))
    assert all(same_bits(own, quantize(x, row)) for own, x in zip(found, values, strict=True))
    assert [own.suffix for own in (tmp_path / "triton").iterdir() if own.is_file()] == [".py"]


_STEP = """
import torch, precc
net = precc.compile(torch.nn.Linear(6, 4), policy="mxfp8", backend="triton")
torch.manual_seed(0)
net(torch.randn(3, 6)).sum().backward()
print(len(net.kernels().kernels), [own.grad.isfinite().all().item() for own in net.parameters()])
"""


@pytest.mark.slow
def test_processes_make_the_kernels_of_one_net(tmp_path: Path) -> None:
    racing = [
        subprocess.Popen(
            [sys.executable, "-c", _STEP],
            env={**os.environ, "PRECC_CACHE": str(tmp_path), "TRITON_INTERPRET": "1"},
            cwd=Path(__file__).parent.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    said = [process.communicate(timeout=300) for process in racing]
    assert [process.returncode for process in racing] == [0, 0], said
    assert said[0][0] == said[1][0]
    assert "[True, True]" in said[0][0]


def test_a_product_with_factors_is_left_to_torch() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.randn(6, 4)), nn.Parameter(torch.randn(4))

        def forward(self, x: Tensor) -> Tensor:
            return torch.addmm(self.bias, x, self.weight, alpha=0.3, beta=2.0)

    model, x = Scaled(), torch.randn(5, 6)
    net, reference = (precc.compile(model, policy="e4m3", backend=own) for own in ("triton", "reference"))
    assert same_bits(net(x).detach(), reference(x).detach())
    assert any("has factors {'beta': 2.0, 'alpha': 0.3}" in own.reason for own in net.kernels().remaining)
