"""Files that commands are tested on: a model of the user's, a plan, an analysis, an exported file, a report, digits."""

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

import precc

__all__ = ["NET", "write_digits", "write_files"]

#: A user's file, which imports another one beside it.
NET = '''
"""A small model, several factories of it, and some that fail."""

import os
import signal

import torch
from torch import nn
from torch.nn import functional as F

import precc
from precc.task import Batch
from width_beside_net import WIDTH

LOSS = nn.CrossEntropyLoss()


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.drop, self.fc2 = nn.Linear(4, WIDTH), nn.Dropout(0.2), nn.Linear(WIDTH, 3)

    def forward(self, x, scale=1.0):
        return self.fc2(self.drop(F.relu(self.fc1(x)))) * scale


def batch(size=8):
    return torch.randn(size, 4), torch.arange(size) % 3


def factory():
    x, y = batch()
    return Net().eval(), (x,), lambda output: LOSS(output, y)


def task():
    return precc.Task(Net(), *batch(), loss=LOSS, batches=lambda epoch: (batch() for _ in range(5)))


def task_by_name():
    x, y = batch()
    return precc.Task(Net(), (), y, named_inputs={"x": x}, loss=F.cross_entropy, batches=lambda epoch: [
        Batch((), (y,), {"x": x})] * 3)


def interrupted():
    made = task()

    def batches(epoch):
        for number in range(5):
            if epoch == 1 and number == 2:
                os.kill(os.getpid(), signal.SIGINT)
            yield batch()

    return precc.Task(made.module, made.inputs, made.targets, loss=LOSS, batches=batches)


def fails_in_forward():
    class Wrong(Net):
        def forward(self, x):
            return self.fc1(x[:, :2])

    return Wrong(), batch()[:1], lambda output: output.sum()


def fails_in_loss():
    return Net(), batch()[:1], lambda output: output.absent


def talks():
    print("a factory that talks")

    class Talking(Net):
        def forward(self, x):
            print("a forward that talks")
            return super().forward(x)

    return Talking().eval(), batch()[:1], lambda output: output.square().mean()


class Strange(BaseException):
    pass


def strange_error():
    raise Strange("of no Exception")


def bad_batch():
    made = task()

    def batches(epoch):
        for number in range(5):
            if (epoch, number) == (1, 3) and not os.environ.get("GOOD_BATCHES"):
                torch.rand(3)
                raise ValueError("a file is gone")
            yield batch()

    return precc.Task(made.module, made.inputs, made.targets, loss=LOSS, batches=batches)


def bad_shape():
    made = task()

    def batches(epoch):
        for number in range(5):
            x, y = batch()
            yield (x[:, :2] if (epoch, number) == (1, 3) and not os.environ.get("GOOD_BATCHES") else x), y

    return precc.Task(made.module, made.inputs, made.targets, loss=LOSS, batches=batches)


def two_losses():
    return Net(), batch()[:1], lambda output: output


class WithLoss(Net):
    def forward(self, x, labels):
        logits = super().forward(x)
        return {"loss": LOSS(logits, labels), "logits": logits}


def own_loss():
    x, y = batch()
    return WithLoss(), {"x": x, "labels": y}


def no_loss():
    return Net().eval(), batch()[:1]


def module_alone():
    return Net()


def nonsense():
    return ["net", 3]


def example_is_nonsense():
    return Net(), [1, 2]


def leaves():
    raise SystemExit("as scripts do")


def no_batches():
    return precc.Task(Net(), *batch(), loss=LOSS, batches=lambda epoch: [])


def strange_batches():
    return precc.Task(Net(), *batch(), loss=LOSS, batches=lambda epoch: [1, 2])


def diverges():
    return precc.Task(Net(), *batch(), loss=lambda output, y: LOSS(output, y) * float("inf"))
'''


def write_files(folder: Path) -> None:
    """net.py with its factories, plan.json, state.pt, step.precc, and what is no plan in other.json."""
    (folder / "net.py").write_text(NET)
    (folder / "width_beside_net.py").write_text("WIDTH = 8\n")
    (folder / "other.json").write_text("{}")
    precc.PrecisionPlan("e4m3", {"fc2/product/fprop.weight": "bf16"}).save(folder / "plan.json")
    torch.manual_seed(0)
    model = torch.nn.Sequential()
    model.fc1, model.relu, model.fc2 = torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)
    torch.save(model.state_dict(), folder / "state.pt")
    net = precc.compile(model, backend="reference")
    labels = torch.arange(8) % 3
    net.analyze(torch.randn(8, 4), loss=lambda output: F.cross_entropy(output, labels)).save(folder / "step.precc")


def write_digits(folder: Path) -> None:
    """A data folder of a few images, for the models and the demo."""
    draw = np.random.default_rng(0)
    images = {f"x_{part}": draw.integers(0, 256, (size, 28, 28), dtype=np.uint8) for part, size in SIZES.items()}
    labels = {f"y_{part}": (np.arange(size) % 10).astype(np.uint8) for part, size in SIZES.items()}
    np.savez(folder / "mnist.npz", **images, **labels)


SIZES = {"train": 200, "test": 20}
