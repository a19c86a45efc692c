"""Kernels, one template a file: each gives the text for a group of operations and the formats of a plan."""

from precc.backends.triton.native import ProductOptions
from precc.backends.triton.program import Template
from precc.backends.triton.templates.cast import CastTemplate
from precc.backends.triton.templates.product import ProductTemplate
from precc.backends.triton.templates.rows import RowsTemplate
from precc.fusion_group import GroupKind

__all__ = ["TEMPLATES", "templates"]

#: By what groups are built around.
TEMPLATES: dict[GroupKind, Template] = {
    template.kind: template for template in (CastTemplate(), ProductTemplate(), RowsTemplate())
}


def templates(options: ProductOptions) -> dict[GroupKind, Template]:
    """The templates, with these options of products."""
    return {**TEMPLATES, GroupKind.PRODUCT: ProductTemplate(options)}
