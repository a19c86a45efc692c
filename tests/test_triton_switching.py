"""Another plan is another set of kernels, and never another graph."""

import pytest
import torch
from torch import Tensor, nn

import precc
from precc.backends.triton.templates.product import ProductTemplate
from precc.errors import BackendError, CaptureError

FORMATS = ("e4m3", "float32", "mxfp4", "e4m3")


def net_of(backend: str, **options: object) -> tuple[precc.PrecisionModule, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16), nn.LayerNorm(16))
    return precc.compile(model, backend=backend, **options), torch.randn(8, 16)  # type: ignore[arg-type]


def step(net: precc.PrecisionModule, x: Tensor) -> Tensor:
    net.zero_grad()
    loss: Tensor = (net(x) * x).sum()
    loss.backward()
    return loss.detach()


def test_a_plan_a_step() -> None:
    net, x = net_of("triton")
    reference, _ = net_of("reference")
    step(net, x)
    before = net.compilations
    for name in FORMATS:
        for own in (net, reference):
            own.set_plan(precc.Uniform(name).assign())
        torch.testing.assert_close(step(net, x), step(reference, x), rtol=1e-5, atol=1e-5)
    assert net.compilations == before
    assert not net.kernels().remaining


def test_kernels_are_made_when_a_plan_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = net_of("triton", policy="e4m3")
    step(net, x)
    built: list[str] = []
    usual = ProductTemplate.build

    def build(self: ProductTemplate, group: object, *options: object) -> object:
        built.append(group.record.name)  # type: ignore[attr-defined]
        return usual(self, group, *options)  # type: ignore[arg-type]

    monkeypatch.setattr(ProductTemplate, "build", build)
    net.set_plan(precc.Uniform("int8").assign())
    made = len(built)
    assert made == 5  # two forward, three backward: the input needs no gradient
    step(net, x)
    net.set_plan(precc.Uniform("e4m3").assign())
    step(net, x)
    assert len(built) == made


def test_one_plan_alone() -> None:
    net, x = net_of("triton", policy="e4m3", live=False)
    reference, _ = net_of("reference", policy="e4m3", live=False)
    torch.testing.assert_close(step(net, x), step(reference, x), rtol=1e-5, atol=1e-5)


def test_other_sizes_are_other_kernels() -> None:
    net, x = net_of("triton", policy="mxfp8", dynamic=True)
    reference, _ = net_of("reference", policy="mxfp8", dynamic=True)
    for rows in (8, 5):
        torch.testing.assert_close(step(net, x[:rows]), step(reference, x[:rows]), rtol=1e-5, atol=1e-5)


def test_without_gradients() -> None:
    net, x = net_of("triton", policy="e4m3")
    reference, _ = net_of("reference", policy="e4m3")
    with torch.no_grad():
        torch.testing.assert_close(net.eval()(x), reference.eval()(x), rtol=1e-5, atol=1e-6)


def test_what_is_not_there_yet() -> None:
    net, _ = net_of("triton")
    with pytest.raises(CaptureError, match="call it once"):
        net.kernels()
    other, x = net_of("reference")
    other(x)
    with pytest.raises(BackendError, match="backend 'reference' has no kernels"):
        other.kernels()


def test_transforms_go_node_by_node() -> None:
    mixed = precc.Uniform("e4m3", transform="hadamard")
    net, x = net_of("triton", policy=mixed)
    reference, _ = net_of("reference", policy=mixed)
    torch.testing.assert_close(step(net, x), step(reference, x), rtol=1e-5, atol=1e-5)
    assert any("hadamard" in own.reason for own in net.kernels().remaining)
