"""Where a training shows how noisy its gradient is: the first source that there is."""

from collections.abc import Mapping, Sequence

from torch import Tensor
from torch.optim import Optimizer

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
    """Measures the noise of the gradient of one step of the optimizer, in its norm.

    In this order: the spread of the micro-batches that the step accumulated, that of ranks, of the halves of the last
    batch, the moments of Adam. Ranks and halves are evaluated in full precision.

    Args:
        watch: of the net.
        optimizer: of its parameters.
    """

    def __init__(self, watch: Watch, optimizer: Optimizer) -> None:
        self.watch, self.optimizer = watch, optimizer
        self._micro: MicroBatches | None = None
        self._spread: float | None = None
        self._backwards = 1
        self._exact: list[dict[str, Tensor]] | None = None  # halves of the last batch, at the parameters of now

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The net's, by name, that require gradients."""
        return {name: own for name, own in self.watch.net.named_parameters() if own.requires_grad}

    def metric(self) -> dict[str, Tensor]:
        """Weights of the squares in the optimizer's norm; none of SGD."""
        return adam_metric(self.parameters, self.optimizer.state, self.optimizer.param_groups)

    @property
    def has_halves(self) -> bool:
        """Whether halves of the last batch can be evaluated."""
        return self.watch.has_loss and self.watch.batch.rows() >= 2

    @property
    def armed(self) -> bool:
        """Whether the next step is watched."""
        return self._micro is not None

    def arm(self) -> None:
        """Watch the backwards of the next step."""
        self.disarm()
        self._micro = MicroBatches(self.parameters, self.metric())

    def disarm(self) -> None:
        """Watch no more."""
        if self._micro is not None:
            self._micro.close()
        self._micro = None

    def see(self, gradients: Mapping[str, Tensor]) -> None:
        """The optimizer is about to use these."""
        self._exact = None
        if self._micro is not None:
            self._spread, self._backwards = self._micro.variance(gradients), max(self._micro.count, 1)
            self.disarm()

    def examples(self, ranks: Ranks) -> int:
        """Of a step of the optimizer."""
        return self.watch.batch.rows() * self._backwards * ranks.size

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
        if self._spread is not None:
            found, self._spread = self._spread, None
            return GradientNoise(found / rounded, NoiseSource.MICRO_BATCHES)
        if self.watch.has_loss and ranks.size > 1:
            with self.watch.in_plan(None):
                own = self.watch.gradient()
            return GradientNoise(ranks.noise(own, metric) / self._backwards, NoiseSource.RANKS)
        if self.has_halves:
            return GradientNoise(self.of_halves(metric), NoiseSource.HALVES)
        moments = adam_moments(self.parameters, self.optimizer.state, self.optimizer.param_groups)
        if moments is None:
            raise ControllerError(
                "the noise of the gradient is not known: pass loss=, so that halves of a batch can be evaluated, "
                "accumulate the gradient from micro-batches, or train with an optimizer of Adam's kind"
            )
        return GradientNoise(noise_of_moments(*moments, metric) / rounded, NoiseSource.MOMENTS)

    def of_halves(self, metric: Mapping[str, Tensor]) -> float:
        """By the last batch, in full precision; each half is evaluated as often as makes a batch of the same size."""
        parts = [{name: own / 2 for name, own in half.items()} for half in self.exact_halves()]
        return noise_of_parts(parts, metric) / self._backwards

    def forget(self) -> None:
        """Give back the memory of gradients."""
        self._exact = None

    def exact_halves(self) -> list[dict[str, Tensor]]:
        """Gradients of the halves of the last batch in full precision, found once a step."""
        if self._exact is None:
            self._exact = self.halves(None)
        return self._exact

    def halves(self, plan: PrecisionPlan | None) -> list[dict[str, Tensor]]:
        """Gradients of the halves of the last batch under a plan, None being full precision."""
        batch = self.watch.batch
        middle = batch.rows() // 2
        ends = ((0, middle), (middle, 2 * middle))
        with self.watch.in_plan(plan):
            return [self.watch.gradient(batch.of_part(*own)) for own in ends]

    def rounding(
        self, plan: PrecisionPlan, exact: Sequence[Mapping[str, Tensor]], metric: Mapping[str, Tensor], horizon: float
    ) -> float:
        """Mean square of the gradient's error of a step under a plan, measured; what persists counts 1 + horizon times.

        Args:
            plan: under which halves of the last batch are evaluated.
            exact: their gradients in full precision.
            metric: of the norm.
            horizon: as in `precc.NoiseBudget`.
        """
        errors = [
            {name: own[name] - value for name, value in right.items()}
            for own, right in zip(self.halves(plan), exact, strict=True)
        ]
        persisting, passing = rounding_of_halves(errors[0], errors[1], metric)
        return persisting * (1 + horizon) + passing / self._backwards
