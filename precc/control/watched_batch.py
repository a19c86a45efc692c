"""The last training batch, as a net and its loss were called with it: what a controller evaluates again."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
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
from precc.warn_caller import warn_caller

__all__ = ["Loss", "Watch", "WatchedBatch"]

#: ``loss(output, *targets)``, one real number.
Loss = Callable[..., Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class WatchedBatch:
    """Arguments of one call of the net, and what its loss was given beside the output."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    targets: tuple[Any, ...] | None

    @property
    def rows(self) -> int:
        """Examples: the first dimension of the first tensor; 0 if no input has one."""
        return BatchSlice.of_inputs(self.args, self.kwargs, None).of

    def of_part(self, start: int, stop: int) -> "WatchedBatch":
        """As large a batch of some of the examples, each of them several times: no graph is compiled for its size."""
        rows = self.rows

        def cut(leaf: Any) -> Any:
            batched = isinstance(leaf, Tensor) and leaf.dim() and leaf.shape[0] == rows
            return _laid_out(leaf, start + torch.arange(rows, device=leaf.device) % (stop - start)) if batched else leaf

        return self._mapped(cut)

    def copied(self) -> "WatchedBatch":
        """The same in tensors of its own, for models that change their inputs."""
        return self._mapped(lambda leaf: _laid_out(leaf, None) if isinstance(leaf, Tensor) else leaf)

    def _mapped(self, change: Callable[[Any], Any]) -> "WatchedBatch":
        own = (self.args, dict(self.kwargs), self.targets)
        args, kwargs, targets = (_pytree.tree_map(change, tree) for tree in own)
        return WatchedBatch(args, kwargs, targets)


class Watch:
    """Remembers the last batch that a net was trained on.

    That is the last call that recorded gradients, in training mode if the net is ever in it, with the targets of the
    last call of the loss on its output. What a loop adds to that loss, and other calls of a step, are not seen.

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
        if loss is not None and (not callable(loss) or isinstance(loss, type)):
            made = f"{loss.__name__}()" if isinstance(loss, type) else "a module or a function"
            raise ControllerError(f"loss is called as loss(output, *targets): pass {made}, not {loss!r:.60}")
        self.net = net
        self._loss = loss
        self._batch: WatchedBatch | None = None
        self._output: tuple[int, ref[Tensor]] | None = None  # number of leaves, and the first tensor
        self._owns_loss = False
        self._trained = False
        self._strange = False  # whether the loss was called with what is no output of the net
        self._inputs: list[ref[Tensor]] = []  # first tensors of the calls since `count_from_now`
        self._repeated = False
        session_of(net).watch(self._see_call)
        self._hook = _hooked(self, loss) if isinstance(loss, nn.Module) else None

    def close(self) -> None:
        """Watch no more."""
        session_of(self.net).unwatch(self._see_call)
        if self._hook is not None:
            self._hook.remove()

    def loss(self, output: Any, *targets: Any) -> Tensor:
        """The loss of an output, remembered with its targets."""
        if self._loss is None:
            raise ControllerError("this controller was made without loss=, and has none to call")
        if self._hook is None:
            self.see_loss((output, *targets))
        return self._loss(output, *targets)

    def _see_call(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
        self._trained |= self.net.training
        if self._trained and not self.net.training:
            return
        self._batch = WatchedBatch(args, kwargs, None)
        leaves = _tensors(output)
        self._output = (len(leaves), ref(leaves[0])) if leaves else None
        self._owns_loss = _own_loss(output) is not None
        for own in _tensors((args, dict(kwargs)))[:1]:
            self._repeated |= any(known() is own for known in self._inputs)
            self._inputs.append(ref(own))

    def see_loss(self, given: tuple[Any, ...]) -> None:
        """The loss is called with these."""
        leaves = _tensors(given[0]) if given else []
        recorded = torch.is_grad_enabled() and any(own.requires_grad for own in leaves)
        if session_of(self.net).aside or not recorded or self._batch is None:
            return
        if self._output is None or len(leaves) != self._output[0] or leaves[0] is not self._output[1]():
            self._strange = True
            return
        if self._batch.targets is not None:
            warn_caller(
                "the loss is called twice on one output of the net: a controller sees the last call alone. Give it a "
                "loss= that is the whole of what the training minimises"
            )
        self._batch = replace(self._batch, targets=_pytree.tree_map(_detached, given[1:]))

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The net's, by name, that require gradients."""
        return {name: own for name, own in self.net.named_parameters() if own.requires_grad}

    def count_from_now(self) -> None:
        """Forget the calls so far."""
        self._inputs, self._repeated = [], False

    @property
    def batches(self) -> int:
        """Calls with different inputs since `count_from_now`; 0 if two had the same."""
        return 0 if self._repeated else len(self._inputs)

    @property
    def batch(self) -> WatchedBatch:
        """The last one.

        Raises:
            ControllerError: the net was not trained yet, or its loss not called where one was given.
        """
        if self._batch is None:
            raise ControllerError(f"{type(self.net).__name__} was not called with gradients since the controller began")
        if self._loss is not None and self._batch.targets is None:
            raise ControllerError(_STRANGE if self._strange else _NOT_CALLED)
        return self._batch

    @property
    def expects_loss(self) -> bool:
        """Whether a loss was given that the training must call."""
        return self._loss is not None

    @property
    def has_loss(self) -> bool:
        """Whether the loss can be evaluated again: it was given, or the model returns its own."""
        return self._loss is not None or self._owns_loss

    def evaluate(self, batch: WatchedBatch | None = None) -> Tensor:
        """The loss of the last batch, or of another, under the plan in force, by the graph of training; without trace.

        Raises:
            ControllerError: there is no batch, or no loss.
            ClosureError: the loss is no real number.
        """
        with self._aside():
            return self._recorded(batch).detach()

    def gradient(self, batch: WatchedBatch | None = None, *, again: bool = True) -> dict[str, Tensor]:
        """The gradient of `evaluate` by name of the parameter; what is in ``.grad`` stays.

        Args:
            batch: the last one, or another.
            again: with the masks and random bits of other evaluations; else with others, the same each time.
        """
        named = self.parameters
        with self._aside():
            if not again:
                for device in {own.device for own in named.values()}:
                    torch.rand(1, device=device)
            found = torch.autograd.grad(self._recorded(batch), list(named.values()), allow_unused=True)
        return {name: own for name, own in zip(named, found, strict=True) if own is not None}

    def _recorded(self, batch: WatchedBatch | None) -> Tensor:
        own = (self.batch if batch is None else batch).copied()
        return loss_of_closure(lambda: self._loss_of(self.net(*own.args, **own.kwargs), own))

    def analyze(self, options: AnalysisOptions) -> Analysis:
        """The analysis of the last batch; see ``net.analyze``."""
        own = self.batch.copied()
        with self._aside():
            if self._loss is None:
                return self.net.analyze(*own.args, options=options, **own.kwargs)
            cut = BatchSlice.of_inputs(own.args, own.kwargs, options.rows)
            part = WatchedBatch((), {}, cut.narrowed(own.targets))
            return self.net.analyze(
                *own.args, loss=lambda output: self._loss_of(output, part), options=options, **own.kwargs
            )

    def _loss_of(self, output: Any, batch: WatchedBatch) -> Tensor:
        if self._loss is not None:
            return self._loss(output, *(batch.targets or ()))
        own: Tensor = _own_loss(output)  # what is no number is refused by who asked
        return own

    @contextmanager
    def in_plan(self, plan: PrecisionPlan | None) -> Iterator[None]:
        """Evaluate in another plan, under the net's rules; None: in full precision, without them."""
        session = session_of(self.net)
        own = session.chosen
        if plan is None:
            session.use_full_precision()
        else:
            session.use(plan, self.net, recompile=True)
        try:
            yield
        finally:
            session.use(own, self.net, recompile=True)

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """Evaluate as if nothing had been: generators, buffers and amax history stay, and nobody watches."""
        session, before = session_of(self.net), Snapshot.of(self.net)
        others, session.aside = session.aside, True
        try:
            yield
        finally:
            session.aside = others
            before.restore(self.net)


_STRANGE = (
    "the loss is called with something else than the net's output: give loss= as a function of that, such as "
    "loss=lambda output, y: loss_fn(output.flatten(0, 1), y.flatten()), and call ctl.loss(net(x), y)"
)
_NOT_CALLED = "the loss was not called through the controller: loss = ctl.loss(net(x), y)"


def _hooked(watch: Watch, loss: nn.Module) -> Any:
    own = ref(watch)  # a criterion outlives controllers

    def see(_module: nn.Module, given: tuple[Any, ...]) -> None:
        found = own()
        if found is not None:
            found.see_loss(given)

    return loss.register_forward_pre_hook(see)


def _tensors(tree: Any) -> list[Tensor]:
    return [own for own in _pytree.tree_leaves(tree) if isinstance(own, Tensor)]


def _own_loss(output: Any) -> Any:
    """What a model calls its loss, or an output that is one number; None if there is none."""
    if isinstance(output, Mapping):
        return output.get("loss")
    if isinstance(output, Tensor):
        return output if output.dim() == 0 else None
    return getattr(output, "loss", None)


def _laid_out(leaf: Tensor, chosen: Tensor | None) -> Tensor:
    """Some rows, or all, in the strides of the tensor, which graphs are compiled for; of expanded ones in their own."""
    rows = leaf.detach() if chosen is None else leaf.detach()[chosen]
    if any(stride == 0 and size > 1 for stride, size in zip(leaf.stride(), leaf.shape, strict=True)):
        return rows
    whole = torch.empty_strided(leaf.shape, leaf.stride(), dtype=leaf.dtype, device=leaf.device)
    return whole.copy_(rows).requires_grad_(leaf.requires_grad)


def _detached(own: Any) -> Any:
    return own.detach() if isinstance(own, Tensor) else own
