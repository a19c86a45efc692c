"""The last training batch, as a net and its loss were called with it: what a controller evaluates again."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from precc.analysis.analysis import Analysis
from precc.analysis.analysis_options import AnalysisOptions
from precc.analysis.batch_slice import BatchSlice
from precc.control.snapshot import Snapshot, loss_of_closure
from precc.errors import ControllerError
from precc.module import PrecisionModule, session_of
from precc.plan import PrecisionPlan

__all__ = ["Loss", "Watch", "WatchedBatch"]

#: ``loss(output, *targets)``, one real number.
Loss = Callable[..., Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class WatchedBatch:
    """Arguments of one call of the net, and what its loss was given beside the output."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    targets: tuple[Any, ...] | None

    def rows(self) -> int:
        """Examples; 0 if no input has a dimension."""
        return BatchSlice.of_inputs(self.args, self.kwargs, None).of

    def of_part(self, start: int, stop: int) -> "WatchedBatch":
        """As large a batch of some of the examples, each of them several times: no graph is compiled for its size."""
        rows = self.rows()

        def cut(leaf: Any) -> Any:
            batched = isinstance(leaf, Tensor) and leaf.dim() and leaf.shape[0] == rows
            return _laid_out(leaf, start + torch.arange(rows, device=leaf.device) % (stop - start)) if batched else leaf

        own = (self.args, dict(self.kwargs), self.targets)
        args, kwargs, targets = (_pytree.tree_map(cut, tree) for tree in own)
        return WatchedBatch(args, kwargs, targets)


class Watch:
    """Remembers the last batch that a net was trained on.

    Args:
        net: made by `precc.compile`.
        loss: of the net's output and the targets, as the training calls it: a module is observed wherever it is
            called; a function is called as ``watch.loss``. None: the model returns its own loss, as those of
            transformers do, or else the gradient of the loss with respect to the output stands for it where only
            derivatives are asked for.

    Raises:
        ControllerError: the loss cannot be called.
    """

    def __init__(self, net: PrecisionModule, loss: Loss | None = None) -> None:
        if loss is not None and not callable(loss):
            raise ControllerError(f"loss is called as loss(output, *targets), and is no {type(loss).__name__}")
        self.net = net
        self._loss = loss
        self._batch: WatchedBatch | None = None
        self._output: ref[Any] | None = None
        self._listening = True
        self._strange = False  # whether the loss was called with what is no output of the net
        session_of(net).watchers.append(self._see_call)
        self._hook = loss.register_forward_pre_hook(self._see_loss) if isinstance(loss, nn.Module) else None

    def close(self) -> None:
        """Watch no more."""
        watchers = session_of(self.net).watchers
        if self._see_call in watchers:
            watchers.remove(self._see_call)
        if self._hook is not None:
            self._hook.remove()

    def loss(self, output: Any, *targets: Any) -> Tensor:
        """The loss of an output, remembered with its targets."""
        if self._loss is None:
            raise ControllerError("this controller was made without loss=, and has none to call")
        if self._hook is None:
            self._see_loss(None, (output, *targets))
        return self._loss(output, *targets)

    def _see_call(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
        if self._listening:
            self._batch = WatchedBatch(args, kwargs, None)
            self._output = ref(output) if isinstance(output, Tensor) else None

    def _see_loss(self, _module: Any, given: tuple[Any, ...]) -> None:
        own = given[0] if given else None
        recorded = self._listening and torch.is_grad_enabled() and isinstance(own, Tensor) and own.requires_grad
        if not recorded or self._batch is None:
            return
        if self._output is not None and self._output() is not own:
            self._strange = True
            return
        self._batch = WatchedBatch(self._batch.args, self._batch.kwargs, tuple(_detached(own) for own in given[1:]))

    @property
    def batch(self) -> WatchedBatch:
        """The last one.

        Raises:
            ControllerError: the net was not trained yet, or its loss not called where one was given.
        """
        if self._batch is None:
            raise ControllerError(f"{type(self.net).__name__} was not called with gradients since the controller began")
        if self._loss is not None and self._batch.targets is None and self._strange:
            raise ControllerError(
                "the loss is called with something else than the net's output: give loss= as a function of that, such "
                "as loss=lambda output, y: loss_fn(output.flatten(0, 1), y.flatten()), and call ctl.loss(net(x), y)"
            )
        if self._loss is not None and self._batch.targets is None:
            raise ControllerError("the loss was not called through the controller: loss = ctl.loss(net(x), y)")
        return self._batch

    @property
    def seen(self) -> bool:
        """Whether there is one."""
        return self._batch is not None

    @property
    def has_loss(self) -> bool:
        """Whether the loss can be evaluated again: it was given, or the model returns its own."""
        return self._loss is not None or (self._output is None and self.seen)

    def evaluate(self, batch: WatchedBatch | None = None) -> Tensor:
        """The loss of the last batch, or of another, under the plan in force, by the graph of training; without trace.

        Raises:
            ControllerError: there is no batch, or no loss.
            ClosureError: the loss is no real number.
        """
        with self._aside():
            return self._recorded(batch).detach()

    def gradient(self, batch: WatchedBatch | None = None) -> dict[str, Tensor]:
        """The gradient of `evaluate` by name of the parameter; what is in ``.grad`` stays."""
        named = {name: own for name, own in self.net.named_parameters() if own.requires_grad}
        with self._aside():
            found = torch.autograd.grad(self._recorded(batch), list(named.values()), allow_unused=True)
        return {name: own for name, own in zip(named, found, strict=True) if own is not None}

    def _recorded(self, batch: WatchedBatch | None) -> Tensor:
        own = self.batch if batch is None else batch
        return loss_of_closure(lambda: self._loss_of(self.net(*own.args, **own.kwargs), own))

    def analyze(self, options: AnalysisOptions) -> Analysis:
        """The analysis of the last batch; see ``net.analyze``."""
        own = self.batch
        if self._loss is None:
            return self.net.analyze(*own.args, options=options, **own.kwargs)
        cut = BatchSlice.of_inputs(own.args, own.kwargs, options.rows)
        part = WatchedBatch((), {}, cut.narrowed(own.targets))
        return self.net.analyze(
            *own.args, loss=lambda output: self._loss_of(output, part), options=options, **own.kwargs
        )

    def _loss_of(self, output: Any, batch: WatchedBatch) -> Tensor:
        if self._loss is not None:
            found = self._loss(output, *(batch.targets or ()))
        else:
            found = (
                output["loss"] if isinstance(output, Mapping) and "loss" in output else getattr(output, "loss", output)
            )
        return found  # what is no number is refused by who asked

    @contextmanager
    def in_plan(self, plan: PrecisionPlan | None) -> Iterator[None]:
        """Evaluate in another plan, under the net's rules; None: in full precision, without them."""
        session = session_of(self.net)
        own = session.chosen
        if plan is None:
            session.use_full_precision()
        else:
            session.use(plan, self.net)
        try:
            yield
        finally:
            session.use(own, self.net)

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """Evaluate as if nothing had been: generators, buffers and amax history go on as they are."""
        before, listening = Snapshot.of(self.net), self._listening
        self._listening = False
        try:
            yield
        finally:
            self._listening = listening
            before.restore(self.net)


def _laid_out(leaf: Tensor, chosen: Tensor) -> Tensor:
    """Some rows in the strides of the tensor, which graphs are compiled for; those of expanded ones are their own."""
    expanded = any(stride == 0 and size > 1 for stride, size in zip(leaf.stride(), leaf.shape, strict=True))
    if expanded:
        return leaf[chosen]
    whole = torch.empty_strided(leaf.shape, leaf.stride(), dtype=leaf.dtype, device=leaf.device)
    return whole.copy_(leaf.detach()[chosen])


def _detached(own: Any) -> Any:
    return own.detach() if isinstance(own, Tensor) else own
