"""The machine that a measurement was made on."""

import platform
from typing import Any

import torch

from precc import __version__
from precc.devices.at_hand import device_at_hand

__all__ = ["machine"]


def machine(kind: str) -> dict[str, Any]:
    """Device, threads, system and versions.

    Args:
        kind: of the device that computes, "cpu" or "cuda".
    """
    own = device_at_hand(kind)
    return {
        "device": own.name,
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
        "versions": {**own.versions, "precc": __version__},
    }
