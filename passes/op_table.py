"""The classes of operators as a table."""

from precc.passes.op_classes import OP_CLASSES, OpClass

__all__ = ["op_table"]

_MEANINGS = {
    OpClass.PRODUCT: "operands and sums have slots",
    OpClass.ELEMENTWISE: "computed element by element, in the arithmetic of its tensors: no slots",
    OpClass.REDUCTION: "sums, means and norms, in the arithmetic of its tensors: no slots",
    OpClass.EXACT: "views, copies, selections, comparisons, constants: nothing is rounded",
}


def op_table() -> str:
    """Every operator that precc knows, by class; one that is not listed keeps its precision, and reports name it."""
    width = max(map(len, OP_CLASSES))
    kinds = list(OpClass)
    rows = sorted(OP_CLASSES.values(), key=lambda row: (kinds.index(row.kind), row.name))
    return "\n".join(
        f"{row.name:<{width}}  {row.kind.value:<11}  {row.reason or _MEANINGS[row.kind]}".rstrip() for row in rows
    )
