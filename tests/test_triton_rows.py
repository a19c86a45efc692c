"""Kernels of rows: what they round is bit for bit what they compute, and what they compute is what PyTorch does."""

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from precc.backends.triton.compiler import compiled
from precc.backends.triton.device import DEVICES, INTERPRETER, Device
from precc.backends.triton.templates.rows import RowsTemplate
from precc.formats import FORMATS, Scaling
from precc.packing import PACK
from precc.precision import Precision
from precc.round_op import ROUND, round_by_tensor_ops
from tests.golden import check_golden
from tests.triton_casts import same_bits
from tests.triton_rows import (
    gated,
    group_of,
    layer_norm_backward,
    packed,
    plan_of,
    program_of,
    residual_layer_norm,
    rms_norm,
    rounded,
    softmax,
    softmax_backward,
)

SCALINGS = {
    "none": None,
    "static": Scaling("static", value=0.37),
    "tensor": Scaling("tensor"),
    "channel": Scaling("channel"),
    "row": Scaling("row", rule="ceil"),
    "block32": Scaling("block", size=32),
    "block24": Scaling("block", size=24),
    "tile": Scaling("tile", size=(16, 16)),
    "two_level": Scaling("block", size=16, scale_format="e4m3", two_level=True),
}
#: A device as whose kernels go over tiles in steps, which the interpreter's need not.
STEPPING = DEVICES["sm_90"]
EPS = torch.finfo(torch.float32).eps


def arguments(kind: str, rows: int, length: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """For the functions below."""
    x = (torch.randn(rows, length) * torch.exp2(torch.randint(-3, 3, (rows, 1)))).to(dtype)
    vector = (1 + torch.randn(length) / 4).to(dtype)
    if kind == "rms_norm":
        return [x, vector]
    if kind == "layer_norm":
        return [x, torch.randn_like(x), vector, torch.randn_like(vector)]
    if kind == "layer_norm_backward":
        _, mean, rstd = torch.native_layer_norm(x, [length], None, None, 1e-5)
        return [torch.randn_like(x), x, mean, rstd, vector]
    return [x] if kind == "softmax" else [torch.randn_like(x), torch.softmax(x, -1) if "soft" in kind else x]


VALUES: dict[str, Callable[..., Tensor | tuple[Tensor, ...]]] = {
    "rms_norm": rms_norm,
    "gated": gated,
    "layer_norm": residual_layer_norm,
    "layer_norm_backward": layer_norm_backward,
    "softmax": softmax,
    "softmax_backward": softmax_backward,
}


def copies_of(kind: str, make: Callable[[Tensor, Tensor], tuple[Tensor, ...]]) -> Callable[..., tuple[Tensor, ...]]:
    """A function whose last argument is a plan, that gives the copies of its first result, and its others."""

    def run(*args: Tensor) -> tuple[Tensor, ...]:
        made = VALUES[kind](*args[:-1])
        first, *others = made if isinstance(made, tuple) else (made,)
        return (*make(first, args[-1]), *others)

    return run


@pytest.mark.parametrize(
    "device", [INTERPRETER, pytest.param(STEPPING, marks=pytest.mark.slow)], ids=["at_once", "in_steps"]
)
@pytest.mark.parametrize("scaling", sorted(SCALINGS))
def test_rounds_what_it_computes(scaling: str, device: Device) -> None:
    precision = Precision("e2m1" if scaling == "two_level" else "e4m3", scaling=SCALINGS[scaling])
    length = 96 if device is INTERPRETER else 512
    for kind in ("rms_norm", "gated") if device is INTERPRETER else ("rms_norm",):
        args = arguments(kind, 40, length)
        plan = plan_of(precision, dataclasses.replace(precision, rounding="stochastic"))
        program, rows = program_of(copies_of(kind, rounded), args, plan, device)
        value, copy, turned = program(args, rows)
        assert same_bits(copy, round_by_tensor_ops(value, plan, 0))
        assert same_bits(turned, round_by_tensor_ops(value.t(), plan, 1))
        program, rows = program_of(copies_of(kind, packed), args, plan, device)
        value, codes, turned = program(args, rows)
        assert codes.equal(PACK(value, plan, 0, False))
        assert turned.equal(PACK(value, plan, 2, True))


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) for name in sorted(FORMATS)])
def test_every_format(name: str) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        args = arguments("gated", 12, 40, dtype)
        plan = plan_of(Precision(name), Precision(name, rounding="stochastic"))
        program, rows = program_of(copies_of("gated", packed), args, plan, INTERPRETER)
        value, codes, turned = program(args, rows)
        assert codes.equal(PACK(value, plan, 0, False))
        assert turned.equal(PACK(value, plan, 2, True))


@pytest.mark.parametrize("kind", sorted(VALUES))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_computes_what_pytorch_does(kind: str, dtype: torch.dtype) -> None:
    """Within the rounding errors of sums of 96 numbers, from float64."""
    args = arguments(kind, 33, 96, dtype)
    plan = plan_of(Precision("e4m3"), Precision("e4m3"))
    program, rows = program_of(copies_of(kind, rounded), args, plan, INTERPRETER)
    ours = program(args, rows)
    wanted = copies_of(kind, lambda value, _: (value,))(*(own.double() for own in args), plan)
    eps = max(torch.finfo(dtype).eps, EPS if dtype is not torch.float64 else 0)
    for own, exact in zip((ours[0], *ours[3:]), wanted, strict=True):
        assert own.shape == exact.shape
        scale = exact.abs().amax().item()
        assert ((own.double() - exact).abs() <= 16 * eps * (exact.abs() + scale)).all()


def test_exact_sums_are_those_of_pytorch() -> None:
    """Of integers: no order rounds."""

    def centred(x: Tensor, plan: Tensor) -> tuple[Tensor, ...]:
        return rounded(x - x.mean(-1, True) + x.amax(-1, True) * x.sum(-1, True), plan)

    x = torch.randint(-64, 64, (24, 64)).float()
    plan = plan_of(Precision("e4m3", scaling=Scaling("row")), Precision("e5m2"))
    program, rows = program_of(centred, [x], plan, INTERPRETER)
    wanted = centred(x, plan)
    assert all(same_bits(own, exact) for own, exact in zip(program([x], rows), wanted, strict=True))


def test_rows_of_three_dimensions_with_views_and_broadcasts() -> None:
    """Strided and broadcast arguments, numbers of rows, a value that views show, and a truth value."""

    def run(x: Tensor, y: Tensor, kept: Tensor, vector: Tensor, plan: Tensor) -> tuple[Tensor, ...]:
        total = (x * vector + y).masked_fill(kept, -2.0)
        matrix = total.view(-1, total.shape[-1])
        return ROUND(total, plan, 0), ROUND(matrix, plan, 1), ROUND(matrix.t(), plan, 0), matrix

    x = torch.randn(6, 4, 48).transpose(0, 1)
    args = [x, torch.randn(6, 1).expand(4, 6, 1), torch.rand(4, 6, 48) < 0.8, torch.randn(48)]
    for scaling in (None, Scaling("row"), Scaling("block", size=16), Scaling("tensor"), Scaling("tile", size=(4, 16))):
        plan = plan_of(Precision("e4m3", scaling=scaling), Precision("e4m3", scaling=scaling, rounding="stochastic"))
        contiguous = [own.contiguous() for own in args]
        for own in (args, contiguous):
            if own is args:  # a value that is not contiguous has no view
                own = [own[0].contiguous(), *own[1:]]
            program, rows = program_of(run, own, plan, INTERPRETER)
            wanted = run(*own, plan)
            assert all(same_bits(mine, exact) for mine, exact in zip(program(own, rows), wanted, strict=True))


@pytest.mark.parametrize("shape", [(0, 8), (3, 0), (1, 1), (1, 7), (5, 1)])
def test_small_and_empty(shape: tuple[int, int]) -> None:
    args = [torch.randn(shape), torch.randn(shape)]
    plan = plan_of(Precision("mxfp8"), Precision("int4"))

    def run(x: Tensor, y: Tensor, plan: Tensor) -> tuple[Tensor, ...]:
        return rounded(x * y + x, plan)

    program, rows = program_of(run, args, plan, INTERPRETER)
    assert all(same_bits(own, exact) for own, exact in zip(program(args, rows), run(*args, plan), strict=True))


def test_not_a_number_and_infinity() -> None:
    x = torch.randn(12, 40)
    x[2, 3], x[4, 5], x[5] = torch.nan, torch.inf, -torch.inf
    plan = plan_of(Precision("e4m3", scaling=Scaling("row")), Precision("mxfp8"))
    program, rows = program_of(copies_of("softmax", rounded), [x], plan, INTERPRETER)
    value, copy, turned = program([x], rows)
    assert value.isnan().equal(torch.softmax(x, -1).isnan())
    assert same_bits(copy, round_by_tensor_ops(value, plan, 0))
    assert same_bits(turned, round_by_tensor_ops(value.t(), plan, 1))


def test_says_what_no_kernel_computes() -> None:
    plan = plan_of(Precision("e4m3"))
    x = torch.randn(4, 8)

    def sorted_rows(x: Tensor, plan: Tensor) -> tuple[Tensor, ...]:
        return (ROUND(torch.cumsum(x, -1), plan, 0),)

    group, rows = group_of(sorted_rows, [x], plan, "rows")
    assert RowsTemplate().build(group, [x], rows, INTERPRETER) == "rows: no kernel computes cumsum (aten.cumsum)"

    def twice(x: Tensor, plan: Tensor) -> tuple[Tensor, ...]:
        return ROUND(x + 1, plan, 0), ROUND(x * 2, plan, 0)

    group, rows = group_of(twice, [x], plan, "rows")
    assert "rounds one value, not 2: add, mul" in str(RowsTemplate().build(group, [x], rows, INTERPRETER))

    def long(x: Tensor, plan: Tensor) -> tuple[Tensor, ...]:
        return (ROUND(x - x.amax(-1, True), plan, 0),)

    x = torch.empty(2, 1 << 15)
    group, rows = group_of(long, [x], plan, "rows")
    assert "rows of 32768 values do not stay" in str(RowsTemplate().build(group, [x], rows, DEVICES["sm_90"]))


GOLDEN = {
    "rms_norm_e4m3": ("rms_norm", Precision("e4m3", scaling=Scaling("row"))),
    "gated_mxfp8": ("gated", Precision("mxfp8")),
    "layer_norm_backward_e5m2": ("layer_norm_backward", Precision("e5m2")),
}


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_texts(name: str) -> None:
    kind, precision = GOLDEN[name]
    args = arguments(kind, 512, 512)
    program, _ = program_of(copies_of(kind, packed), args, plan_of(precision, precision), DEVICES["sm_90"], name)
    check_golden(f"triton_rows_{name}.txt", "\n\n".join(source.text.rstrip() for source in program.kernels))


def compiles(kind: str, precision: Precision, length: int, dtype: torch.dtype, devices: list[str]) -> None:
    args = arguments(kind, 256, length, dtype)
    plan = plan_of(precision, precision)
    for name in devices:
        program, _ = program_of(copies_of(kind, packed), args, plan, DEVICES[name], f"{kind}_{length}")
        for source, facts in zip(program.kernels, compiled(program.kernels, DEVICES[name]), strict=True):
            assert not isinstance(facts, str), facts
            assert facts.spills == 0, (source.name, source.tile, source.num_warps, facts)
            assert source.bytes > 0


@pytest.mark.parametrize("kind", sorted(VALUES))
def test_compiles_without_spills(kind: str) -> None:
    devices = ["sm_80", "sm_89", "sm_90"] if kind in ("gated", "rms_norm") else ["sm_90"]
    compiles(kind, Precision("mxfp8"), 1024, torch.bfloat16, devices)


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(VALUES))
@pytest.mark.parametrize("length", [64, 768, 4096])
def test_compiles_at_all_lengths(kind: str, length: int) -> None:
    pairs = [] if "layer_norm" in kind and length == 4096 else [Precision("mxfp4")]
    for precision in (Precision("e4m3", scaling=Scaling("row")), Precision("mxfp8"), *pairs):
        for dtype in (torch.float32, torch.bfloat16):
            compiles(kind, precision, length, dtype, ["sm_80", "sm_90"])


@pytest.mark.parametrize(
    ("kind", "name", "longest"),
    [("rms_norm", "mxfp8", 8192), ("layer_norm", "mxfp8", 4096), ("layer_norm", "mxfp4", 2048)],
)
def test_the_longest_rows(kind: str, name: str, longest: int) -> None:
    """A layer norm has twice the values in registers, and codes of 4 bits take two rows at once."""
    plan = plan_of(Precision(name), Precision(name))
    for length in (longest, longest + 32):
        args = arguments(kind, 64, length, torch.bfloat16)
        group, rows = group_of(copies_of(kind, packed), args, plan, kind)
        built = RowsTemplate().build(group, args, rows, DEVICES["sm_90"])
        assert isinstance(built, str) is (length > longest)
        assert not isinstance(built, str) or f"at most {longest}" in built
