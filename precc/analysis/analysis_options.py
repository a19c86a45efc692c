"""How a step is analysed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from precc.errors import AnalysisError
from precc.formats import Format
from precc.precision import Precision

__all__ = ["AnalysisOptions"]


@dataclass(frozen=True, slots=True)
class AnalysisOptions:
    """How a step is analysed; more probes and samples cost time and make estimates better.

    Args:
        probes: vectors along which the gradient is differentiated; each costs about two to three steps.
        samples: values of each tensor at which adjoints are kept.
        sums: dot products of each product at which adjoints are kept, for plans that round sums (64 is a good number;
            about five steps); 0: such plans can be measured, not predicted.
        metric: by name of the parameter, weights of the squares in the gradient's norm, such as ``1 / (sqrt(v) + eps)``
            of Adam; parameters that are not named have 1.
        candidates: precisions, or formats, beside the usual ones for which losses of range are counted; with scales
            along an axis they can be predicted only if they are named here.
        rows: so many examples of the batch, the first ones, instead of all: an analysis of a quarter of them takes a
            quarter of the time and memory. All errors are then those of a step with these examples. The batch is the
            first dimension of the first tensor of the call, and every tensor with as many rows is cut; where that is
            wrong, cut the inputs by hand. A `loss` is called with the outputs of these examples:
            ``lambda output: loss_fn(output, y[:len(output)])``.
        seed: of all random numbers; the generators of torch stay as they are.
        results: whether the results of products have slots too, and sums of two activations, for plans that say in what
            they are stored; about half as many slots again.

    Raises:
        AnalysisError: a number below 1, a candidate outside of a sequence, or a metric that is not of positive numbers.
        FormatError: a candidate is no format.
    """

    probes: int = 3
    samples: int = 8192
    sums: int = 0
    metric: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    candidates: Sequence[Precision | Format | str] = ()
    rows: int | None = None
    seed: int = 0
    results: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.candidates, (str, Format, Precision)):
            raise AnalysisError(f"candidates is a sequence, such as [{str(self.candidates)!r}]")
        object.__setattr__(self, "candidates", tuple(Precision.of(choice) for choice in self.candidates))
        for name in ("probes", "samples"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise AnalysisError(f"{name} is a whole number of at least 1, not {value!r}")
        if self.rows is not None and (type(self.rows) is not int or self.rows < 1):
            raise AnalysisError(f"rows is a whole number of at least 1, or None, not {self.rows!r}")
        if type(self.sums) is not int or self.sums < 0:
            raise AnalysisError(f"sums is a whole number of at least 0, not {self.sums!r}")
        if type(self.seed) is not int or not 0 <= self.seed < 2**32:
            raise AnalysisError(f"seed is a whole number from 0 to 2**32 - 1, not {self.seed!r}")
        if type(self.results) is not bool:
            raise AnalysisError(f"results is True or False, not {self.results!r}")
        if not isinstance(self.metric, Mapping):
            raise AnalysisError(f"a metric is a dictionary by name of the parameter, not {self.metric!r:.40}")
        for name, own in self.metric.items():
            if not isinstance(name, str):
                raise AnalysisError(
                    "a metric is by name of the parameter: {name: ... for name, p in net.named_parameters()}"
                )
            if not isinstance(own, Tensor) or not bool(((own > 0) & own.isfinite()).all()):
                raise AnalysisError(f"the metric of {name!r} is a tensor of positive numbers")
