"""The devices of this machine, as files of figures name them."""

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from precc.errors import PlanError

__all__ = ["DeviceAtHand", "device_at_hand", "gpus_at_hand"]


@dataclass(frozen=True, slots=True)
class DeviceAtHand:
    """What identifies a device.

    Args:
        name: of the GPU; of a CPU also the number of CPUs, and of threads that torch uses.
        kind: "cpu" or "cuda".
        target: what it runs.
        versions: of what runs on it.
    """

    name: str
    kind: Literal["cpu", "cuda"]
    target: str
    versions: Mapping[str, str]


def device_at_hand(kind: str | None = None) -> DeviceAtHand:
    """A device of this machine; None: the GPU, if there is one.

    Raises:
        PlanError: there is none of this kind.
    """
    kind = ("cuda" if torch.cuda.is_available() else "cpu") if kind is None else kind
    versions = {"torch": str(torch.__version__), "python": platform.python_version()}
    if kind == "cpu":
        return DeviceAtHand(_cpu_name(), "cpu", "cpu-emulated", versions)
    if kind != "cuda":
        raise PlanError(f"precc measures 'cpu' or 'cuda', not {kind!r}")
    if not torch.cuda.is_available():
        raise PlanError("torch finds no GPU on this machine: measure its CPU ('cpu'), or run this where the GPU is")
    return _gpu(torch.cuda.current_device(), {**versions, "cuda": str(torch.version.cuda)})


def gpus_at_hand(target: str) -> list[str]:
    """Names of the GPUs of this machine that run a target."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    found = [_gpu(index, {}) for index in range(count)]
    return [own.name for own in found if own.target == target]


def _gpu(index: int, versions: Mapping[str, str]) -> DeviceAtHand:
    major, minor = torch.cuda.get_device_capability(index)
    return DeviceAtHand(torch.cuda.get_device_name(index), "cuda", f"sm_{major}{minor}", versions)


def _cpu_name() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    model = models[0] if models else platform.processor() or platform.machine()
    return f"{model}, {os.cpu_count()} CPUs, {torch.get_num_threads()} threads"
