"""The tiles of a product's kernel that fit it, with what follows."""

import math
from collections.abc import Sequence
from dataclasses import replace

from precc.backends.triton.native import Arithmetic, least_terms
from precc.backends.triton.templates.epilogue import Epilogue
from precc.backends.triton.templates.given_product import GivenProduct
from precc.backends.triton.tiles import ProductSize, Tile, product_tiles

__all__ = ["fitting_tiles"]


def fitting_tiles(product: GivenProduct, epilogue: Epilogue) -> list[Tile]:
    """Those that hold whole blocks of results, best first; of the interpreter larger ones."""
    if product.rounded is not None:
        tiles: Sequence[Tile] = [product.rounded.tile(product.device)]
    else:
        tiles = product_tiles(_size(product, epilogue), product.device)
    rows, columns = epilogue.least
    if product.device.interpreted:
        return [replace(own, rows=max(own.rows, rows), columns=max(own.columns, columns)) for own in tiles]
    return [own for own in tiles if own.rows >= rows and own.columns >= columns]


def _size(product: GivenProduct, epilogue: Epilogue) -> ProductSize:
    a, b = (own.text for own in product.inputs)
    divides = math.gcd(a.scale.terms, b.scale.terms)
    # behind partial sums, which are multiplied by scales or promoted, there are the sums
    live = int(product.kind is Arithmetic.FP8 or divides > 0)
    live += min(2, len(epilogue.loaded) + len(epilogue.rounded))
    return ProductSize(
        product.sizes[1],
        product.sizes[2],
        product.terms,
        a.bytes,
        b.bytes,
        a.read,
        b.read,
        a.converted or b.converted,
        divides,
        live,
        max(least_terms(product.kind), product.promotion if product.sums else 0),
        64 if product.kind is Arithmetic.FP8 and product.device.capability >= 90 else 16,  # wgmma's
        product.kind not in (Arithmetic.IEEE, Arithmetic.DOUBLE),
    )
