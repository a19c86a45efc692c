"""Policies make plans. A policy answers ``assign(analysis) -> plan``."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from precc.accumulation.accumulator import Accumulator
from precc.accumulation.named import parse_accumulator
from precc.errors import FormatError, PlanError, UnsupportedError
from precc.formats import Format, Scaling, Transform, format_of_dtype
from precc.loss_scaling import LossScaling
from precc.plan import PrecisionPlan
from precc.precision import Precision, misfit
from precc.provenance import Provenance
from precc.rounding import NEAREST_EVEN, Rounding, RoundingMode
from precc.update_formats import UpdateChoice, UpdateFormats

__all__ = ["Policy", "Uniform", "assigned", "parse_policy"]


@runtime_checkable
class Policy(Protocol):
    """What every policy offers."""

    def assign(self, analysis: object | None = None) -> PrecisionPlan:
        """The plan for an analysed graph; a policy that looks at nothing takes ``None``."""
        ...


@dataclass(frozen=True, slots=True)
class Uniform:
    """One format for both operands of every product in fprop, dgrad and wgrad, perhaps others for sums and for results.

    Args:
        format: a format or its name.
        rounding: a rounding or its name.
        scaling: a `Scaling`, ``"tensor"``, ``"channel"``, ``"row"``, or None; block formats have their own.
        transform: ``"hadamard"``, ``"shift_and_squeeze"``, or None.
        accumulator: how every product sums, as `precc.parse_accumulator` takes it: an `Accumulator`, its name, or a
            format: to it after every fused multiply-add. Default: as the tensors' own arithmetic does.
        results: in what products store their results, and sums of two activations theirs: a precision, a format, or its
            name; default: as the tensors are.
        update: in what `precc.RoundedUpdates` rounds gradient buffer, momentum, step and master weight:
            `UpdateFormats`, formats by ``"master"`` and so on, or one format for all four; default: as the tensors are.
        loss_scaling: what `precc.LossScaler` scales losses by: a `LossScaling`, or a number that stays.
        elementwise: widens the policy to other values; not available in this version.

    Raises:
        FormatError: unknown format, rounding, scaling or accumulator, or a combination that makes no sense.
        UnsupportedError: an option that this version does not have.

    >>> print(Uniform("e4m3").assign())
    plan by Uniform('float8_e4m3fn'): float8_e4m3fn in every slot
    """

    format: Format
    rounding: Rounding
    scaling: Scaling | None
    transform: Transform | None
    accumulator: Accumulator | None
    results: Precision | None
    update: UpdateFormats
    loss_scaling: LossScaling | None

    def __init__(
        self,
        format: Format | str,
        *,
        rounding: Rounding | RoundingMode | str = NEAREST_EVEN,
        scaling: Scaling | str | None = None,
        transform: Transform | str | None = None,
        results: Precision | Format | str | None = None,
        elementwise: None = None,
        accumulator: Accumulator | Format | str | None = None,
        update: UpdateChoice = None,
        loss_scaling: LossScaling | float | None = None,
    ) -> None:
        if elementwise is not None:
            raise UnsupportedError(
                f"Uniform(elementwise={elementwise!r}): this version rounds operands, sums and results of products, "
                "sums of two activations, and updates"
            )
        own = Precision(format, rounding, scaling, transform)  # a combination that makes no sense is said here
        for name in ("format", "rounding", "scaling", "transform"):
            object.__setattr__(self, name, getattr(own, name))
        sums = None if accumulator is None else parse_accumulator(accumulator)
        object.__setattr__(self, "accumulator", sums)
        object.__setattr__(self, "results", None if results is None else Precision.of(results))
        object.__setattr__(self, "update", UpdateFormats.of(update))
        object.__setattr__(self, "loss_scaling", LossScaling.of(loss_scaling))
        if sums is not None and (why := misfit([own, own], sums.operand_formats)):
            raise FormatError(f"Uniform sums in {sums}, {why}")

    @property
    def _precision(self) -> Precision:
        return Precision(self.format, self.rounding, self.scaling, self.transform)

    def assign(self, analysis: object | None = None) -> PrecisionPlan:
        options = "" if self.rounding == NEAREST_EVEN else f", rounding={str(self.rounding)!r}"
        options += "" if self.scaling is None else f", scaling={str(self.scaling)!r}"
        options += "" if self.transform is None else f", transform={self.transform.value!r}"
        options += "" if self.accumulator is None else f", accumulator={str(self.accumulator)!r}"
        options += "" if self.results is None else f", results={str(self.results)!r}"
        options += f", update={str(self.update)!r}" if self.update else ""
        options += "" if self.loss_scaling is None else f", loss_scaling={str(self.loss_scaling)!r}"
        provenance = Provenance(policy=f"Uniform({self.format.name!r}{options})")
        return PrecisionPlan(
            self._precision,
            provenance=provenance,
            default_accumulator=self.accumulator,
            default_result=self.results,
            default_update=self.update,
            loss_scaling=self.loss_scaling,
        )


def parse_policy(policy: Policy | Format | str) -> Policy:
    """A policy as it is; the name of a format means `Uniform` in it.

    Raises:
        FormatError: the name is no format.
        PlanError: the object is no policy.
    """
    if isinstance(policy, (str, Format)):
        try:
            return Uniform(policy)
        except FormatError as error:
            raise FormatError(f"policy {policy!r}: {error}") from None
    if isinstance(policy, PrecisionPlan):
        raise PlanError("a plan is no policy: pass it as plan=, or to net.set_plan")
    if isinstance(policy, type) or not isinstance(policy, Policy):
        same = format_of_dtype(policy)
        hint = f"; a format goes by its name: {same.name!r}" if same is not None else ""
        raise PlanError(f"{policy!r} is no policy: it has no assign(analysis) -> plan{hint}")
    return policy


def assigned(policy: Policy, analysis: object | None = None) -> PrecisionPlan:
    """The plan of a policy.

    Raises:
        PlanError: what it assigns is no plan.
    """
    plan = policy.assign(analysis)
    if not isinstance(plan, PrecisionPlan):
        raise PlanError(f"{policy!r}.assign returned {type(plan).__name__}, not a PrecisionPlan")
    return plan
