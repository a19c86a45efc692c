"""Matrix products: operands rounded as they are loaded, sums in the arithmetic of their formats, a fused epilogue."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor
from torch.fx import Node

from precc.backends.triton.device import Device
from precc.backends.triton.kernel_source import KernelSource
from precc.backends.triton.native import USUAL, ProductOptions
from precc.backends.triton.program import Built, Group, Rows
from precc.backends.triton.templates.bound_kernel import BoundKernel
from precc.backends.triton.templates.cast_chain import View
from precc.backends.triton.templates.epilogue import Epilogue
from precc.backends.triton.templates.given_product import GivenProduct
from precc.backends.triton.templates.group_values import outputs_of, placeholders_of
from precc.backends.triton.templates.product_behind import Later, casts_behind, what_follows
from precc.backends.triton.templates.product_kernel import ProductKernel
from precc.backends.triton.templates.product_tile import fitting_tiles
from precc.backends.triton.tiles import Tile
from precc.backends.triton.tuning import can_be_timed, known_here, milliseconds, quickest_here
from precc.errors import BackendError, FormatError
from precc.fusion_group import GroupKind

__all__ = ["ProductProgram", "ProductTemplate"]

#: The most rows and columns of results with one scale that a kernel of a product finds.
_BLOCK = 128


@dataclass(frozen=True, slots=True)
class ProductTemplate:
    """Groups around a product of matrices, in the tensors' own sums.

    One kernel loads both operands, rounded as it loads them if their scales are none or given, and computes and rounds
    what is made of the sums at their place. Scales that come from the values of an operand, or of a result, take a cast
    of their own before or behind it.

    Args:
        options: of 8-bit products.
    """

    options: ProductOptions = USUAL
    kind: ClassVar[GroupKind] = GroupKind.PRODUCT

    def build(self, group: Group, args: Sequence[Any], rows: Rows, device: Device) -> Built:
        """The program of a group; a sentence where no kernel computes it."""
        try:
            return ProductProgram(GivenProduct.of(group, args, rows, device, self.options))
        except (BackendError, FormatError) as error:
            return str(error).removeprefix("triton: ")


class ProductProgram:
    """The kernels of one product, for tensors of some sizes."""

    def __init__(self, product: GivenProduct) -> None:
        module = product.group.module
        self.product, self._placeholders = product, placeholders_of(module)
        epilogue, later, self._tiles = _in_tiles(product)
        self._kernel = ProductKernel.of(product, epilogue, self._placeholders)
        self._bound = self._kernel.in_tile(self._tiles[0])
        self._is_chosen = len(self._tiles) == 1
        self._take_known()
        made = [*self._placeholders, *epilogue.stored]
        self._behind = casts_behind(product, later, made)
        made += [node for own in self._behind for node in own.results]
        self._outputs = [View.of(node, made, product.values) for node in outputs_of(module)]

    @property
    def kernels(self) -> Sequence[KernelSource]:
        """In the order in which they run."""
        before = [source for own in self.product.inputs if own.cast is not None for source in own.cast.sources]
        return [*before, self._bound.source, *(source for own in self._behind for source in own.kernels.sources)]

    def __call__(self, args: Sequence[Any], rows: Rows) -> tuple[Tensor, ...]:
        """The outputs of the group."""
        made: dict[Node, Any] = dict(zip(self._placeholders, args, strict=True))
        device = next(own.device for own in args if isinstance(own, Tensor))
        made |= self._kernel.empty(device)
        if not self.product.is_empty:
            given = self._kernel.given(made, rows, device)
            if not self._is_chosen and can_be_timed(device):
                self._is_chosen, self._bound = True, self._quickest(given)
            self._bound(given)
        for own in self._behind:
            own.run(made, rows)
        return tuple(output(made) for output in self._outputs)

    @property
    def _key(self) -> str:
        """What the quickest tile depends on beside the device."""
        return f"{self._bound.source.digest} {self.product.sizes} {self.product.terms}"

    def _take_known(self) -> None:
        """Take the tile that was found to be the quickest before, so that no other is compiled."""
        known = known_here(self._tiles, self._key)
        if known is not None:
            self._is_chosen, self._bound = True, self._kernel.in_tile(known)

    def _quickest(self, given: dict[str, Any]) -> BoundKernel:
        """The kernel in the quickest of the first tiles: timed once a device, at the first run."""

        def timed(tile: Tile) -> float:
            kernel = self._kernel.in_tile(tile)
            return milliseconds(lambda: kernel(given))

        return self._kernel.in_tile(quickest_here(self._tiles, self._key, timed))


def _in_tiles(product: GivenProduct) -> tuple[Epilogue, Later, list[Tile]]:
    """What follows a product, and the tiles that hold it: with results rounded in blocks, if there are such tiles."""
    for limit in (_BLOCK, 0):
        epilogue, later = what_follows(product, limit)
        tiles = fitting_tiles(product, epilogue)
        if tiles:
            return epilogue, later, tiles
    terms = math.gcd(*(own.text.scale.terms for own in product.inputs))
    raise BackendError(f"triton: no tile holds blocks of {terms} terms with one scale")
