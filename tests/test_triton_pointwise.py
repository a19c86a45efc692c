"""Pointwise operations of kernels against those of torch: bit for bit, or within units in the last place."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from precc.backends.triton.device import INTERPRETER
from precc.backends.triton.emit.pointwise import EXACT, POINTWISE
from precc.fusible_ops import POINTWISE_OPS
from precc.precision import Precision
from precc.round_op import ROUND
from tests.triton_casts import same_bits
from tests.triton_rows import plan_of, program_of

aten = torch.ops.aten

#: Functions of two values for each operator.
CASES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], ...]] = {
    "aten._to_copy": (lambda x, y: aten._to_copy(x, dtype=torch.float16) * y.half(),),
    "aten.abs": (lambda x, y: aten.abs(x),),
    "aten.add": (lambda x, y: aten.add(x, y), lambda x, y: aten.add(x, 0.1)),
    "aten.clamp": (lambda x, y: aten.clamp(x, -0.3, 2.5),),
    "aten.clamp_max": (lambda x, y: aten.clamp_max(x, 1.7),),
    "aten.clamp_min": (lambda x, y: aten.clamp_min(x, 0.1),),
    "aten.div": (lambda x, y: aten.div(x, y), lambda x, y: aten.div(x, 3.0)),
    "aten.eq": (lambda x, y: torch.where(aten.eq(x, y), x, y),),
    "aten.exp": (lambda x, y: aten.exp(x),),
    "aten.ge": (lambda x, y: torch.where(aten.ge(x, 0.5), x, y),),
    "aten.gelu": (lambda x, y: aten.gelu(x), lambda x, y: aten.gelu(x, approximate="tanh")),
    "aten.gelu_backward": (
        lambda x, y: aten.gelu_backward(x, y),
        lambda x, y: aten.gelu_backward(x, y, approximate="tanh"),
    ),
    "aten.gt": (lambda x, y: torch.where(aten.gt(x, y), x, y),),
    "aten.le": (lambda x, y: torch.where(aten.le(x, y), x, y),),
    "aten.leaky_relu": (lambda x, y: aten.leaky_relu(x, 0.2),),
    "aten.leaky_relu_backward": (lambda x, y: aten.leaky_relu_backward(x, y, 0.2, False),),
    "aten.log": (lambda x, y: aten.log(x),),
    "aten.logical_and": (lambda x, y: torch.where(aten.logical_and(x > 0, y > 0), x, y),),
    "aten.logical_not": (lambda x, y: torch.where(aten.logical_not(x > 0), x, y),),
    "aten.logical_or": (lambda x, y: torch.where(aten.logical_or(x > 0, y > 0), x, y),),
    "aten.lt": (lambda x, y: torch.where(aten.lt(x, y), x, y),),
    "aten.masked_fill": (lambda x, y: aten.masked_fill(x, y > 0, -1.5),),
    "aten.maximum": (lambda x, y: aten.maximum(x, y),),
    "aten.minimum": (lambda x, y: aten.minimum(x, y),),
    "aten.mul": (lambda x, y: aten.mul(x, y), lambda x, y: aten.mul(x, 0.1), lambda x, y: aten.mul(x, y > 0)),
    "aten.ne": (lambda x, y: torch.where(aten.ne(x, y), x, y),),
    "aten.neg": (lambda x, y: aten.neg(x),),
    "aten.pow": tuple((lambda x, y, n=n: aten.pow(x, n)) for n in (2, 3, 0.5, -0.5, -1)),  # type: ignore[misc]
    "aten.reciprocal": (lambda x, y: aten.reciprocal(x),),
    "aten.relu": (lambda x, y: aten.relu(x),),
    "aten.rsqrt": (lambda x, y: aten.rsqrt(x),),
    "aten.rsub": (lambda x, y: aten.rsub(x, y), lambda x, y: aten.rsub(x, 1.0)),
    "aten.sigmoid": (lambda x, y: aten.sigmoid(x),),
    "aten.sigmoid_backward": (lambda x, y: aten.sigmoid_backward(x, y),),
    "aten.silu": (lambda x, y: aten.silu(x),),
    "aten.silu_backward": (lambda x, y: aten.silu_backward(x, y),),
    "aten.sqrt": (lambda x, y: aten.sqrt(x),),
    "aten.sub": (lambda x, y: aten.sub(x, y), lambda x, y: aten.sub(x, 1.25)),
    "aten.tanh": (lambda x, y: aten.tanh(x),),
    "aten.tanh_backward": (lambda x, y: aten.tanh_backward(x, y),),
    "aten.threshold_backward": (lambda x, y: aten.threshold_backward(x, y, 0),),
    "aten.where": (lambda x, y: torch.where(x > y, x, y),),
}


def bfloat16_values() -> tuple[Tensor, Tensor]:
    """All of them, and all of them in another order."""
    bits = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16)
    return bits.view(torch.bfloat16).view(256, 256), bits[torch.randperm(1 << 16)].view(torch.bfloat16).view(256, 256)


def float32_values() -> tuple[Tensor, Tensor]:
    """Of all magnitudes, and near 1."""
    wide = torch.randint(-(1 << 31), 1 << 31, (128, 256)).to(torch.int32).view(torch.float32)
    near = torch.randn(128, 256) * 3
    return torch.cat([wide, near]), torch.cat([wide.flip(0), torch.randn(128, 256)])


def computed(function: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """By a kernel and by torch."""

    def run(x: Tensor, y: Tensor, plan: Tensor) -> tuple[Tensor, ...]:
        value = function(x, y)
        return value, ROUND(value, plan, 0)

    program, rows = program_of(run, [x, y], plan_of(Precision("e4m3")), INTERPRETER)
    return program([x, y], rows)[0], function(x, y)


def units(ours: Tensor, wanted: Tensor, exact: Tensor) -> float:
    """The largest difference in units in the last place of what is exact, NaN and infinity apart."""
    finite = wanted.isfinite() & ours.isfinite() & exact.isfinite()
    info = torch.finfo(wanted.dtype)
    unit = torch.exp2(exact.abs().clamp_min(info.tiny).log2().floor()) * info.eps
    return float(((ours.double() - wanted.double()).abs() / unit)[finite].max())


def test_the_passes_know_the_table() -> None:
    assert set(POINTWISE) == set(CASES)
    assert set(POINTWISE) == set(POINTWISE_OPS)


@pytest.mark.parametrize("name", sorted(EXACT))
def test_exact(name: str) -> None:
    for values in (bfloat16_values(), float32_values()):
        for function in CASES[name]:
            ours, wanted = computed(function, *values)
            assert same_bits(ours, wanted), (ours != wanted).nonzero()[:4]


#: By how many units in the last place of the larger of argument and result they differ, for arguments up to 30.
UNITS = {name: 4.0 for name in set(POINTWISE) - set(EXACT)} | {"aten.gelu_backward": 32.0}


@pytest.mark.parametrize("name", sorted(UNITS))
def test_near(name: str) -> None:
    for function in CASES[name]:
        x, y = (own.clamp(-30, 30) for own in float32_values())
        ours, wanted = computed(function, x, y)
        assert ours.isnan().equal(wanted.isnan())
        size = torch.maximum(wanted.abs(), torch.maximum(x.abs(), torch.tensor(1.0))).nan_to_num(1.0)
        assert units(ours, wanted, size.double()) <= UNITS[name]
        x, y = (own.clamp(-1e4, 1e4) if "gelu" in name else own for own in bfloat16_values())
        ours, wanted = computed(function, x, y)  # the cube in gelu overflows in another order
        assert ours.isnan().equal(wanted.isnan())


def test_a_factor_is_rounded_apart() -> None:
    x, y = torch.randn(64, 64), torch.randn(64, 64)
    ours, wanted = computed(lambda x, y: aten.sub(aten.add(x, y, alpha=-3), y, alpha=0.3), x, y)
    assert units(ours, wanted, torch.full((64, 64), 8.0)) <= 1
