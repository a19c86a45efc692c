"""The models with their data, by the short names that the command has for them."""

from collections.abc import Callable, Mapping

from precc.models import gpt, lenet5, lstm, mlp, resnet20
from precc.task import Task

__all__ = ["TASKS"]

#: Each makes a new model, from torch's generator, and reads its data.
TASKS: Mapping[str, Callable[[], Task]] = {
    "gpt": gpt.task,
    "lenet5": lenet5.task,
    "lstm": lstm.task,
    "mlp": mlp.task,
    "resnet20": resnet20.task,
}
