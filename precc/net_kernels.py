"""The kernels of a net's graphs."""

from functools import reduce
from operator import add

from precc.errors import BackendError, CaptureError
from precc.kernel_listing import KernelListing
from precc.session import Session

__all__ = ["kernels_of"]


def kernels_of(session: Session, name: str) -> KernelListing:
    """Those of all graphs of a net, in the order of their capture; each graph's forward comes first.

    Raises:
        CaptureError, BackendError: as `PrecisionModule.kernels`.
    """
    graphs = session.graphs.current
    if not graphs:
        raise CaptureError(f"{name} has no graphs yet: call it once, and its backward for those of the backward")
    owners = [owner for graph in graphs for owner in graph.kernel_owners]
    if not owners:
        backend = session.options.backend.name
        raise BackendError(f"backend {backend!r} has no kernels to show: precc.compile(..., backend='triton') has")
    return reduce(add, (owner.listing() for owner in owners), KernelListing())
