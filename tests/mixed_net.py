"""A small net with every kind of slot that a file can round, and a plan with many kinds of precisions for it."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import precc
from precc.formats import Scaling
from precc.plan import PrecisionPlan
from precc.precision import Precision

__all__ = ["PRECISIONS", "MixedNet", "mixed_inputs", "mixed_net", "mixed_plan"]


class MixedNet(nn.Module):
    """Convolutions, one grouped, linear layers, products of activations, and a residual sum."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.grouped = nn.Conv2d(4, 4, 3, stride=2, groups=2, bias=False)
        self.fc1 = nn.Linear(36, 40)
        self.fc2 = nn.Linear(40, 40, bias=False)
        self.head = nn.Linear(40, 5)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.grouped(F.relu(self.conv(images))).flatten(1)
        hidden = self.fc1(hidden)
        hidden = hidden + self.fc2(torch.tanh(hidden))
        mixed = (hidden @ hidden.t() / 40).softmax(-1) @ hidden
        logits: Tensor = self.head(mixed)
        return logits


PRECISIONS: Mapping[str, Precision] = {
    "conv/product/fprop.input": Precision("float8_e4m3fn", "nearest_away"),
    "conv/product/fprop.weight": Precision("bfloat16"),
    "grouped/product/fprop.input": Precision("float16"),
    "grouped/product/fprop.weight": Precision("int8", scaling=Scaling("channel")),
    "fc1/product/fprop.input": Precision("mxfp8_e4m3"),
    "fc1/product/fprop.weight": Precision("float4_e2m1fn", scaling=Scaling("block", size=8)),
    "fc2/product/fprop.input": Precision("int8", scaling=Scaling("tensor", scale_format="float32")),
    "fc2/product/fprop.weight": Precision("nvfp4"),
    "fc2/product/fprop.result": Precision("bfloat16"),
    "add/fprop.result": Precision("float8_e5m2", "toward_zero"),
    "product/fprop.a": Precision("fixed8.4"),
    "product/fprop.b": Precision("float6_e3m2fn"),
    "product#1/fprop.a": Precision("float8_e4m3fn", scaling="row"),
    "product#1/fprop.b": Precision("float32"),
    "head/product/fprop.input": Precision("float6_e2m3fn"),
    "head/product/fprop.weight": Precision("float8_e4m3fn", scaling=Scaling("static", value=0.25)),
}


def mixed_plan() -> PrecisionPlan:
    """The plan; what it does not name, the backward, is float32."""
    return PrecisionPlan("float32", PRECISIONS)


def mixed_net(seed: int = 0) -> precc.PrecisionModule:
    """The net under the plan, by the reference backend."""
    torch.manual_seed(seed)
    return precc.compile(MixedNet(), plan=mixed_plan(), backend="reference")


def mixed_inputs() -> tuple[Tensor]:
    """One batch of 6."""
    return (torch.randn(6, 2, 7, 7, generator=torch.Generator().manual_seed(1)),)
