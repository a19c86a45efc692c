"""Whether the choices of a plan fit a product: scalings, transforms, and the operands of an accumulator."""

from precc.annotations import Operand, Product
from precc.errors import FormatError, PlanError
from precc.formats import Transform
from precc.plan import PrecisionPlan
from precc.precision import misfit
from precc.rounding.scales import block_shape
from precc.slots import ATTENTION, Role

__all__ = ["check_product", "check_result"]


def check_product(product: Product, plan: PrecisionPlan) -> None:
    """Refuse a plan that does not fit a product.

    Raises:
        PlanError: it does not; the message names the slot.
    """
    _check_transforms(product, plan)
    _check_operands(product, plan)
    for operand in product.operands:
        _check_scaling(operand, plan)


def check_result(result: Operand, plan: PrecisionPlan) -> None:
    """Refuse a plan that does not fit a result.

    Raises:
        PlanError: it does not; the message names the slot.
    """
    if (own := plan.precision(result.slot.name)).transform is not None:
        raise PlanError(f"slot {result.slot.name!r} cannot have the precision {own}: transforms are of operands")
    _check_scaling(result, plan)


def _check_scaling(operand: Operand, plan: PrecisionPlan) -> None:
    precision = plan.precision(operand.slot.name)
    try:
        block_shape((2,) * operand.dims, precision.row(axis=operand.contracted, channel=operand.channel))
    except FormatError as error:
        raise PlanError(f"slot {operand.slot.name!r} cannot have the precision {precision}: {error}") from None


def _check_transforms(product: Product, plan: PrecisionPlan) -> None:
    """A Hadamard transform cancels only where both operands have it, along a dimension that one sum runs over."""
    names = [operand.slot.name for operand in product.operands]
    mixed = [name for name in names if plan.precision(name).transform is Transform.HADAMARD]
    if mixed and product.operands[0].slot.family == ATTENTION:
        raise PlanError(
            f"slot {mixed[0]!r} cannot have a Hadamard transform: inside of fused attention nothing cancels it; "
            'compile with attention="products"'
        )
    if len(mixed) == 1:
        other = next(name for name in names if name not in mixed)
        raise PlanError(f"slot {mixed[0]!r} has a Hadamard transform and {other!r} has none: their product is wrong")
    if mixed and product.ragged:
        raise PlanError(
            f"slot {mixed[0]!r} cannot have a Hadamard transform: it would mix rows of different groups, as of experts"
        )
    if mixed and product.groups > 1 and product.role is not Role.WGRAD:
        raise PlanError(
            f"slot {mixed[0]!r} cannot have a Hadamard transform: it would mix channels of the {product.groups} groups "
            "of a convolution"
        )


def _check_operands(product: Product, plan: PrecisionPlan) -> None:
    """Whether an accumulator that multiplies values of certain formats gets them."""
    accumulator = product.sums(plan)
    precisions = [plan.precision(operand.slot.name) for operand in product.operands]
    why = "" if accumulator is None else misfit(precisions, accumulator.operand_formats)
    if why:
        operands = " x ".join(operand.slot.operand for operand in product.operands)
        raise PlanError(f"{product.accumulators[0].name!r} (of {operands}) sums in {accumulator}, {why}")
