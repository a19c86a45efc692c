"""States of torch's random generators, to draw the same numbers again."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import RLock

import torch
from torch import Tensor

__all__ = ["Generators"]

_SECTION = RLock()


@dataclass(frozen=True, slots=True)
class Generators:
    """The state of the processor's generator, and of those of accelerators."""

    processor: Tensor
    accelerators: dict[torch.device, Tensor]

    @classmethod
    def of(cls, tensors: Iterable[Tensor]) -> "Generators":
        """The present states, of the devices that these tensors are on."""
        devices = {value.device for value in tensors}
        return cls(
            processor=torch.get_rng_state(),
            accelerators={
                device: torch.get_device_module(device).get_rng_state(device)
                for device in devices
                if device.type not in ("cpu", "meta")
            },
        )

    def restore(self) -> None:
        """Draw the same random numbers again, from now on."""
        torch.set_rng_state(self.processor)
        for device, state in self.accelerators.items():
            torch.get_device_module(device).set_rng_state(state, device)

    @contextmanager
    def again(self) -> Iterator[None]:
        """Draw the same random numbers again, and go on afterwards as if none had been drawn.

        The generators are those of the whole process: sections of other threads wait, and what other threads draw in
        the meantime repeats numbers.
        """
        with _SECTION:
            yield from self._again()

    def _again(self) -> Iterator[None]:
        present = Generators(
            torch.get_rng_state(),
            {device: torch.get_device_module(device).get_rng_state(device) for device in self.accelerators},
        )
        self.restore()
        try:
            yield
        finally:
            present.restore()
