"""Rounded values in as few bits as their format needs: codes and scales in one tensor of bytes."""

from precc.packing.layout import PackedLayout
from precc.packing.pack_ops import PACK, UNPACK

__all__ = ["PACK", "UNPACK", "PackedLayout"]
