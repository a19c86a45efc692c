"""Where a training shows how noisy its gradient is: the first source that there is."""

from collections.abc import Mapping

from torch import Tensor
from torch.optim import Optimizer

from precc.analysis.metric import metric_norm
from precc.control.gradient_noise import (
    GradientNoise,
    MicroBatches,
    NoiseSource,
    adam_metric,
    adam_moments,
    noise_of_moments,
    noise_of_parts,
    rounding_of_halves,
)
from precc.control.ranks import Ranks
from precc.control.watched_batch import Watch
from precc.errors import ControllerError
from precc.plan import PrecisionPlan

__all__ = ["NoiseProbe"]


class NoiseProbe:
    """Measures the noise of the gradient of one step of the optimizer, in its norm, and what plans add to it.

    In this order: the spread of the micro-batches that the step accumulated, that of ranks, of the halves of the last
    batch, the moments of Adam. Ranks and halves are evaluated in full precision. All of it is in units of the mean loss
    of the examples of a step, whatever the training multiplies that by, accumulates, scales or clips.

    Args:
        watch: of the net.
        optimizer: of its parameters.
    """

    def __init__(self, watch: Watch, optimizer: Optimizer) -> None:
        self.watch, self.optimizer = watch, optimizer
        self._micro: MicroBatches | None = None
        self._seen: MicroBatches | None = None  # of the last step, if it was watched
        self._used = 1.0  # norm of the gradient that the optimizer used, relative to that of all backwards
        self._exact: list[dict[str, Tensor]] | None = None  # halves of the last batch, at the parameters of now

    def metric(self) -> dict[str, Tensor]:
        """Weights of the squares in the optimizer's norm, of the parameters that the last batch trains; none of SGD."""
        trained = self.exact_halves()[0] if self.has_halves else self.watch.parameters
        parameters = {name: own for name, own in self.watch.parameters.items() if name in trained}
        return adam_metric(parameters, self.optimizer.state, self.optimizer.param_groups)

    @property
    def has_halves(self) -> bool:
        """Whether halves of the last batch can be evaluated."""
        return self.watch.has_loss and self.watch.batch.rows >= 2

    @property
    def armed(self) -> bool:
        """Whether the next step is watched."""
        return self._micro is not None

    def arm(self) -> None:
        """Watch the backwards of the next step."""
        self.disarm()
        self.watch.count_from_now()
        metric = adam_metric(self.watch.parameters, self.optimizer.state, self.optimizer.param_groups)
        self._micro = MicroBatches(self.watch.parameters, metric)

    def disarm(self) -> None:
        """Watch no more."""
        if self._micro is not None:
            self._micro.close()
        self._micro = None

    def see(self, gradients: Mapping[str, Tensor]) -> None:
        """The optimizer is about to use these."""
        self._exact, self._seen = None, None
        micro = self._micro
        if micro is None:
            return
        self.disarm()
        total = micro.total
        self._used = metric_norm(gradients, micro.metric) / total if total else 1.0
        if micro.count == self.watch.batches:  # else some backwards are no micro-batches, as of a second pass
            self._seen = micro

    def forget(self) -> None:
        """Give back the memory of gradients."""
        self._exact, self._seen = None, None

    @property
    def backwards(self) -> int:
        """Micro-batches of a step."""
        return max(self._seen.count, 1) if self._seen is not None else 1

    def examples(self, ranks: Ranks) -> int:
        """Of a step of the optimizer."""
        return self.watch.batch.rows * self.backwards * ranks.size

    def measure(self, ranks: Ranks, metric: Mapping[str, Tensor], theta: float) -> GradientNoise:
        """The noise of a step.

        Args:
            ranks: of the training.
            metric: of the norm.
            theta: rounding relative to the noise in the gradients of the training, which is taken off what these show.

        Raises:
            ControllerError: there is no source.
        """
        rounded = 1.0 + theta**2
        spread = self._seen.variance if self._seen is not None and ranks.size == 1 else None
        if self._seen is not None and spread is not None:
            return GradientNoise(spread * self._unit(self._seen, metric) / rounded, NoiseSource.MICRO_BATCHES)
        if self.watch.has_loss and ranks.size > 1:
            with self.watch.in_plan(None):
                own = self.watch.gradient()
            return GradientNoise(ranks.noise(own, metric) / self.backwards, NoiseSource.RANKS)
        if self.has_halves:
            return GradientNoise(self.of_halves(metric), NoiseSource.HALVES)
        moments = adam_moments(self.watch.parameters, self.optimizer.state, self.optimizer.param_groups)
        if moments is None:
            raise ControllerError(
                "the noise of the gradient is not known: pass loss= and batches of 2 or more, of which halves are "
                "evaluated, accumulate the gradient from micro-batches, or train with an optimizer of Adam's kind"
            )
        found = noise_of_moments(*moments, metric) / self._used**2 if self._used else 0.0
        return GradientNoise(found / rounded, NoiseSource.MOMENTS)

    def _unit(self, seen: MicroBatches, metric: Mapping[str, Tensor]) -> float:
        """The square of a gradient of the loss, relative to a part of the training's; without a loss they are alike."""
        if not self.has_halves or not seen.part:
            return 1.0
        first, second = self.exact_halves()
        square = sum(metric_norm(half, metric) ** 2 for half in (first, second)) / 2
        apart = metric_norm({name: first[name] - second[name] for name in first}, metric) ** 2 / 4
        return max(square - apart, 0.0) / seen.part**2

    def of_halves(self, metric: Mapping[str, Tensor]) -> float:
        """By the last batch, in full precision: ``||a - b||**2 / (2 B sum w**2)``, w the weights of a half's examples.

        Each half is evaluated in a batch of that size, with its examples as often as it takes, and masks of its own.
        """
        rows = self.watch.batch.rows
        half = rows // 2
        often = [rows // half + (own < rows % half) for own in range(half)]
        squares = sum((own / rows) ** 2 for own in often)
        parts = [{name: own / 2 for name, own in side.items()} for side in self.exact_halves()]
        return noise_of_parts(parts, metric) * 2 / (rows * squares) / self.backwards

    def exact_halves(self) -> list[dict[str, Tensor]]:
        """Gradients of the halves of the last batch in full precision, found once a step."""
        if self._exact is None:
            self._exact = self.halves(None)
        return self._exact

    def halves(self, plan: PrecisionPlan | None) -> list[dict[str, Tensor]]:
        """Gradients of the halves of the last batch under a plan (None: full precision), with masks of their own."""
        batch = self.watch.batch
        middle = batch.rows // 2
        with self.watch.in_plan(plan):
            return [
                self.watch.gradient(batch.of_part(0, middle)),
                self.watch.gradient(batch.of_part(middle, 2 * middle), again=False),
            ]

    def rounding(self, plan: PrecisionPlan, ranks: Ranks, metric: Mapping[str, Tensor], horizon: float) -> float:
        """Mean square of the gradient's error of a step under a plan, measured; what persists counts 1 + horizon times.

        Args:
            plan: under which halves of the last batch are evaluated.
            ranks: of the training.
            metric: of the norm.
            horizon: as in `precc.NoiseBudget`.
        """
        errors = [
            {name: own[name] - value for name, value in right.items()}
            for own, right in zip(self.halves(plan), self.exact_halves(), strict=True)
        ]
        persisting, passing = rounding_of_halves(errors[0], errors[1], metric)
        return persisting * (1 + horizon) + passing / (self.backwards * ranks.size)
