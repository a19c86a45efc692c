"""Kernels of nets of real sizes compile for GPUs that need not be there, and multiply as those do."""

import re

import pytest
from torch import nn

import precc
from precc.backends.triton.backend import Triton
from precc.backends.triton.compiler import compiled
from precc.backends.triton.device import DEVICES, Device
from precc.backends.triton.facts import CompiledFacts
from precc.backends.triton.listing import Listing, kernels_for
from precc.backends.triton.templates import TEMPLATES
from tests.llama_block import LlamaBlock, example


def tensor_scaled(fmt: str) -> precc.PrecisionPlan:
    return precc.PrecisionPlan(fmt, rules=(precc.Rule(format=fmt, scaling="tensor"),))


PLANS = {
    "e4m3": precc.Uniform("e4m3").assign(),
    "e4m3 and e5m2": precc.PrecisionPlan("e4m3", rules=(precc.Rule(operand="grad_output", format="e5m2"),)),
    "e4m3/tensor": tensor_scaled("e4m3"),
    "mxfp8": precc.PrecisionPlan("mxfp8"),
    "nvfp4": precc.PrecisionPlan("nvfp4"),
    "int8": tensor_scaled("int8"),
    "stochastic e5m2": precc.PrecisionPlan(
        "e4m3", rules=(precc.Rule(operand="grad_output", format="e5m2", rounding="stochastic"),)
    ),
    "sums": precc.PrecisionPlan("e4m3", rules=(precc.Rule(accumulator="e5m10"),)),
}
#: Widths and tokens that fill tiles.
WIDTH, HIDDEN, TOKENS = 256, 512, 128
#: What multiplies 8-bit floats.
FP8 = {"sm_89": "mma.sync", "sm_90": "wgmma"}


def listed(module: nn.Module, plan: precc.PrecisionPlan, device: Device) -> Listing:
    net = precc.compile(module, plan=plan, backend=Triton(target=device))
    return kernels_for(net, (example(1, TOKENS, WIDTH),), {})


def check(listing: Listing, device: Device) -> list[str]:
    """Each kernel compiles, fits, and spills nothing; the matrix instructions of all."""
    found: list[str] = []
    for source, facts in zip(listing.kernels, compiled(listing.kernels, device), strict=True):
        assert isinstance(facts, CompiledFacts), facts
        assert facts.spills == 0, source.name
        assert facts.shared_memory <= device.shared_memory, source.name
        found += facts.instructions
    return found


def layer() -> nn.Module:
    return nn.Sequential(nn.RMSNorm(WIDTH), nn.Linear(WIDTH, HIDDEN))


@pytest.mark.parametrize("device", DEVICES.values(), ids=DEVICES.keys())
def test_every_template(device: Device) -> None:
    """A layer has a kernel of each; where 8-bit floats are multiplied, nothing else is."""
    listing = listed(layer(), PLANS["e4m3 and e5m2"], device)
    assert not listing.left
    assert {own.template for own in listing.kernels} == {str(kind.value) for kind in TEMPLATES}
    instructions = check(listing, device)
    if device.has_fp8:
        assert {own for own in instructions if FP8[device.name] not in own} == set()
        assert {pair for own in instructions for pair in operands(own)} == {"e4m3.e4m3", "e5m2.e4m3"}
    else:
        assert instructions
        assert all("bf16.bf16" in own for own in instructions)


def operands(opcode: str) -> list[str]:
    return re.findall(r"f32\.(e\dm\d\.e\dm\d)", opcode) or [opcode]


@pytest.mark.slow
@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("device", DEVICES.values(), ids=DEVICES.keys())
def test_a_layer(name: str, device: Device) -> None:
    listing = listed(layer(), PLANS[name], device)
    assert not listing.left
    instructions = check(listing, device)
    if name in ("e4m3", "e4m3/tensor") and device.has_fp8:
        assert instructions
        assert all(FP8[device.name] in own and "e4m3" in own for own in instructions)


@pytest.mark.slow
@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("device", DEVICES.values(), ids=DEVICES.keys())
def test_a_block(name: str, device: Device) -> None:
    """That no group of it is left is not said here: a mask inside attention may be."""
    check(listed(LlamaBlock(WIDTH, 4, HIDDEN), PLANS[name], device), device)
