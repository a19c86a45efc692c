"""Where a measurement was made: every file in results/ says so."""

import platform
from pathlib import Path
from typing import Any

import torch

import precc


def environment() -> dict[str, Any]:
    """Processor, threads, system and versions."""
    return {
        "machine": {"processor": _processor(), "threads": torch.get_num_threads(), "system": platform.platform()},
        "versions": {"torch": torch.__version__, "precc": precc.__version__, "python": platform.python_version()},
    }


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else platform.processor()
