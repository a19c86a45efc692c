"""A training that is killed and goes on; run by tests/test_checkpoint.py. usage: FILE CONTROLLER STEPS"""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import precc
from precc.control.noise_aware_rule import NoiseAwareRule


class Net(nn.Module):
    """Two layers with a dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(12, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.b(F.dropout(self.a(x).relu(), 0.2, self.training))
        return logits


def main(path: Path, kind: str, steps: int) -> None:
    torch.manual_seed(0)
    net = precc.compile(Net(), backend="reference")
    parts: dict[str, Any] = {"net": net, **_controlled(net, kind)}
    step = precc.load_checkpoint(path, **parts)["step"] if path.exists() else 0
    while step < steps:
        x, y = torch.randn(16, 12), torch.randint(4, (16,))
        if kind == "TrustRegion":
            parts["optimizer"].step(partial(_loss, net, x, y))
        else:
            parts["optimizer"].zero_grad()
            loss = parts["ctl"].loss(net(x), y)
            loss.backward()
            parts["optimizer"].step()
            parts["ctl"].step(loss)
        step += 1
        print(f"step {step}", flush=True)
        precc.save_checkpoint(path, **parts, step=step)
    print("done", flush=True)


def _loss(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(net(x), y)


def _controlled(net: precc.PrecisionModule, kind: str) -> dict[str, object]:
    if kind == "TrustRegion":
        return {"optimizer": precc.TrustRegion(net, momentum=0.9)}
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    rule = NoiseAwareRule(start=(2, 4, 6), every=3, agree=64.0)
    return {"optimizer": optimizer, "ctl": precc.NoiseAware(net, optimizer, loss=F.cross_entropy, rule=rule)}


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
