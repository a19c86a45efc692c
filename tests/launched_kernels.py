"""Whether each kernel that a net lists has run, and each that has run is listed."""

from collections.abc import Iterable

from precc.backends.triton.kernel_source import KernelSource
from precc.backends.triton.load import Launch
from precc.kernel_listing import KernelListing, ListedKernel

__all__ = ["not_run", "not_shown"]


def not_run(listing: KernelListing, launched: Iterable[Launch]) -> list[str]:
    """Names of listed kernels whose text, in their tile, nothing launched."""
    ran = {_identity(own.source) for own in launched}
    return [own.name for own in listing.kernels if _identity(own) not in ran]


def not_shown(listing: KernelListing, launched: Iterable[Launch]) -> list[str]:
    """Names of launched kernels that the listing has not."""
    shown = {_identity(own) for own in listing.kernels}
    return sorted({own.source.name for own in launched if _identity(own.source) not in shown})


def _identity(own: KernelSource | ListedKernel) -> tuple[object, ...]:
    return own.name, own.text, tuple(sorted(own.tile.items())), own.num_warps, own.num_stages
