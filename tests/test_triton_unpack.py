"""Packing and unpacking outside of groups: as tensor operations do, for every format, scaling and order."""

import pytest
import torch
from torch import Tensor, nn

import precc
from precc.backends.triton import packing
from precc.backends.triton.alike_rows import alike
from precc.backends.triton.compiler import compiled
from precc.backends.triton.device import DEVICES
from precc.backends.triton.facts import CompiledFacts
from precc.backends.triton.load import launches
from precc.backends.triton.packing import PACK_TRITON, UNPACK_TRITON, pack_triton, unpack_triton
from precc.backends.triton.running_group import RunningGroup
from precc.backends.triton.templates.unpack import unpack_kernel
from precc.errors import BackendError
from precc.formats import Format, Scaling, Transform, parse_format
from precc.packing import PACK, UNPACK, PackedLayout
from precc.rounding import NEAREST_EVEN, Row, parse_rounding, row_of
from tests.test_rounding import named
from tests.test_triton_packing import PACKED
from tests.triton_casts import same_bits
from tests.triton_products import KEY, plan_tensor

SCALINGS = {
    "none": None,
    "static": Scaling("static", value=0.3),
    "tensor": Scaling("tensor"),
    "channel": Scaling("channel"),
    "row": Scaling("row"),
    "block": Scaling("block", size=8),
    "tile": Scaling("tile", size=(4, 8)),
}


#: Whether codes of 4 bits in tiles lie so that no two are of one block, row-major and transposed.
ODD = {(3, 4, 16): (False, False), (10, 24): (False, False), (2, 8, 6): (True, False)}


def values(dtype: torch.dtype, *shape: int) -> Tensor:
    torch.manual_seed(0)
    x = torch.randn(*shape) * torch.logspace(-3, 3, shape[-1])
    return x.to(dtype)


def check(x: Tensor, row: Row, transposed: bool, *, packs: bool = True) -> None:
    """Bytes by kernels are those of tensor operations but where values are NaN, and so are values of them."""
    plan = plan_tensor([row])
    packed = PACK(x, plan, 0, transposed)
    wanted = UNPACK(packed, plan, 0, list(x.shape), x.dtype, transposed)
    assert same_bits(UNPACK_TRITON(packed, plan, 0, list(x.shape), x.dtype, transposed), wanted)
    if not packs:
        with pytest.raises(BackendError, match="two codes of 4 bits a byte need a tile with even blocks"):
            pack_triton(x, row, transposed, KEY)
        return
    for ours in pack_triton(x, row, transposed, KEY), PACK_TRITON(x, plan, 0, transposed):
        assert torch.equal(ours, packed) or bool(wanted.isnan().any())
        assert same_bits(UNPACK(ours, plan, 0, list(x.shape), x.dtype, transposed), wanted)


@pytest.mark.parametrize("transposed", [False, True], ids=["row-major", "transposed"])
@pytest.mark.parametrize("fmt", PACKED, ids=named)
def test_formats(fmt: Format, transposed: bool) -> None:
    x = values(torch.float32, 6, 32)
    x[1, 2], x[3, 4] = float("inf"), -0.0
    check(x, row_of(fmt, axis=1, slot=9), transposed)
    x[2, 5] = float("nan")
    check(x, row_of(fmt, axis=1, slot=9), transposed)


DTYPES = [
    torch.bfloat16,
    *(pytest.param(own, marks=pytest.mark.slow) for own in (torch.float32, torch.float16, torch.float64)),
]
SHAPES = [((3, 4, 16), 2), *(pytest.param(*own, marks=pytest.mark.slow) for own in (((10, 24), 1), ((2, 8, 6), 1)))]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("shape", "axis"), SHAPES, ids=str)
@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("name", ["e4m3", "e2m1", "int8", "e5m10"])
def test_scalings(name: str, scaling: str, shape: tuple[int, ...], axis: int, dtype: torch.dtype) -> None:
    row = row_of(parse_format(name), NEAREST_EVEN, SCALINGS[scaling], axis=axis, channel=0, slot=9)
    for transposed in (False, True):
        odd = name == "e2m1" and scaling == "tile" and ODD[shape][transposed]
        check(values(dtype, *shape), row, transposed, packs=not odd)


def test_sizes_and_strides() -> None:
    row = row_of(parse_format("mxfp8"), axis=1, slot=9)
    for x in (
        torch.randn(0, 32),
        torch.randn(1, 1),
        torch.randn(7, 33),
        torch.randn(64, 5).t(),
        torch.randn(8, 64)[:, ::2],
    ):
        check(x, row, False)
    for shape in (), (5,), (2, 3, 4, 5):
        check(torch.randn(shape), row_of(parse_format("e4m3"), slot=9), False)


def test_stochastic() -> None:
    check(torch.randn(16, 16), row_of(parse_format("e5m2"), parse_rounding("stochastic"), slot=9), True)


def test_what_no_kernel_does(monkeypatch: pytest.MonkeyPatch) -> None:
    x, row = torch.randn(4, 16), row_of(parse_format("e4m3"), transform=Transform.HADAMARD, axis=1)
    with pytest.raises(BackendError, match="no kernel transforms values before it rounds"):
        pack_triton(x, row, False)
    wide = row_of(parse_format("float32"))
    with pytest.raises(BackendError, match="stored as torch.float32 need no kernel"):
        unpack_triton(x, wide, (4, 16), torch.float32, False)
    plan = plan_tensor([row_of(parse_format("e4m3"), slot=9)])
    monkeypatch.setattr(packing, "kernels_of", _refused)
    with pytest.warns(precc.PrecisionWarning, match="packed by tensor operations, with the same result: triton: no"):
        assert torch.equal(PACK_TRITON(x, plan, 0, False), PACK(x, plan, 0, False))


def _refused(*args: object) -> None:
    raise BackendError("triton: no")


def test_a_net_that_is_computed_node_by_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a template refuses is packed by kernels too, and read again."""
    monkeypatch.setattr(RunningGroup, "_made", lambda own, like, rows: "refused")
    found = []
    for backend in ("triton", "reference"):
        torch.manual_seed(0)
        net = precc.compile(
            nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 8)), policy="mxfp8", backend=backend
        )
        with launches() as launched:
            net(torch.ones(4, 32)).sum().backward()
        found.append([own.grad for own in net.parameters() if own.grad is not None])
        if backend == "triton":
            assert {own.source.name for own in launched} >= {"cast_packed", "unpacked"}
    assert all(torch.equal(*both) for both in zip(*found, strict=True))


def compiles(target: str, name: str, scaling: str, *, transposed: bool) -> None:
    """Without spills."""
    row = row_of(parse_format(name), NEAREST_EVEN, SCALINGS[scaling], axis=1, channel=0, slot=9)
    layout = PackedLayout.of(row, (96, 64), torch.bfloat16, transposed)
    kernel = unpack_kernel(alike(row, torch.bfloat16), layout, torch.bfloat16, DEVICES[target])
    (facts,) = compiled([kernel.source], DEVICES[target])
    assert isinstance(facts, CompiledFacts), facts
    assert facts.spills == 0


@pytest.mark.parametrize("target", DEVICES)
def test_it_compiles(target: str) -> None:
    compiles(target, "e2m1", "tile", transposed=True)


@pytest.mark.slow
@pytest.mark.parametrize("target", DEVICES)
@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("name", ["e2m1", "e4m3", "int8", "e4m3fnuz", "e5m10", "fixed16.8"])
def test_all_compile(name: str, scaling: str, target: str) -> None:
    for transposed in (False, True):
        compiles(target, name, scaling, transposed=transposed)
