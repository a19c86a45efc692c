"""A model with what it is trained on: what the command line needs of a net, and examples of nets have."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from torch import Tensor, nn

from precc.errors import CaptureError, NoLossError

__all__ = ["Batch", "Task"]


class Batch(NamedTuple):
    """One batch: inputs of the net in order, what the loss is given beside the output, and inputs by name."""

    inputs: tuple[Any, ...]
    targets: tuple[Any, ...] = ()
    named_inputs: Mapping[str, Any] = {}

    @classmethod
    def of(cls, own: Any) -> "Batch":
        """A batch as loaders give it: ``(input, target)``, ``(inputs, targets)`` of tuples, or a dict by name.

        Raises:
            CaptureError: it is none of these.

        >>> Batch.of(((1, 2), 3)), Batch.of({"ids": 4})
        (Batch(inputs=(1, 2), targets=(3,), named_inputs={}), Batch(inputs=(), targets=(), named_inputs={'ids': 4}))
        """
        if isinstance(own, Batch):
            return own
        if isinstance(own, Mapping):
            return cls((), (), own)
        if isinstance(own, (tuple, list)) and len(own) == 2:
            return cls(_tuple(own[0]), _tuple(own[1]))
        raise CaptureError(
            f"a batch is a pair (inputs, targets), a dict of inputs by name, or a precc.task.Batch, not {_kind(own)}"
        )


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """A model, one example of its training step, and how it is trained.

    Args:
        module: the model, or a net of `precc.compile`.
        inputs: of the example: the tuple of the model's inputs, or the only one.
        targets: of the example: what the loss is given beside the output; a tuple, or the only one.
        named_inputs: of the example, by name.
        loss: ``loss(output, *targets)``, one real number, such as ``torch.nn.functional.cross_entropy``; None: the
            model's own, which is ``output.loss``, ``output["loss"]``, or an output of one number.
        batches: of a number of the epoch, from 0, its batches: any iterable, such as a DataLoader, of pairs ``(inputs,
            targets)``, dicts of inputs by name, or `Batch`. What it draws from torch's generator is repeated when a
            training is resumed. None: the example, each step.

    Raises:
        CaptureError: the module is none, or an entry is not what it must be; the message says which.

    >>> import torch
    >>> task = Task(nn.Linear(4, 2), torch.ones(3, 4), torch.zeros(3, 2), loss=nn.functional.mse_loss)
    >>> task.loss_of(task.module(*task.inputs), task.targets).shape, len(list(task.epoch(0)))
    (torch.Size([]), 1)
    """

    module: nn.Module
    inputs: Any = ()
    targets: Any = ()
    named_inputs: Mapping[str, Any] = field(default_factory=dict)
    loss: Callable[..., Tensor] | None = None
    batches: Callable[[int], Iterable[Any]] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.module, nn.Module):
            raise CaptureError(f"the module of a task is a torch.nn.Module, not {_kind(self.module)}")
        for name in ("inputs", "targets"):
            object.__setattr__(self, name, _tuple(getattr(self, name)))
        if not isinstance(self.named_inputs, Mapping):
            raise CaptureError(f"the named_inputs of a task are a dict by name, not {_kind(self.named_inputs)}")
        for name in ("loss", "batches"):
            own = getattr(self, name)
            if own is not None and (not callable(own) or isinstance(own, type)):
                raise CaptureError(f"the {name} of a task is a function, or None, not {own!r:.60}")

    def on(self, module: nn.Module) -> "Task":
        """The same with another module, such as the compiled one."""
        return replace(self, module=module)

    @property
    def example(self) -> Batch:
        """The batch of the example."""
        return Batch(self.inputs, self.targets, self.named_inputs)

    def epoch(self, number: int) -> Iterable[Any]:
        """The batches of an epoch, which `Batch.of` takes."""
        return [self.example] if self.batches is None else self.batches(number)

    def loss_of(self, output: Any, targets: tuple[Any, ...] = ()) -> Tensor:
        """The loss of an output.

        Raises:
            CaptureError: it is not one real number, or, a NoLossError, there is none.
        """
        loss = _own_loss(output) if self.loss is None else self.loss(output, *targets)
        if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.dtype.is_floating_point:
            what = f"a {loss.dtype} tensor of shape {list(loss.shape)}" if isinstance(loss, Tensor) else _kind(loss)
            raise CaptureError(f"the loss is one real number, not {what}")
        return loss


def _own_loss(output: Any) -> Any:
    """What a model calls its loss."""
    own = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", output)
    if isinstance(own, Tensor) and own.numel() == 1:
        return own
    raise NoLossError(
        f"the model's output, {_kind(output)}, has no loss, which is one number: give the loss as well, by "
        "precc.Task(module, inputs, targets, loss=...), or: return model, (x,), lambda output: "
        "F.cross_entropy(output, y)"
    )


def _tuple(own: Any) -> tuple[Any, ...]:
    return own if isinstance(own, tuple) else (own,)


def _kind(own: Any) -> str:
    if isinstance(own, Tensor):
        return f"a tensor of shape {list(own.shape)}"
    return f"{own!r:.40}, of type {type(own).__name__}"
