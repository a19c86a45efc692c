"""What tiles and templates need to know of the machine that a kernel runs on."""

from dataclasses import dataclass

from precc.errors import BackendError, expected_one_of

__all__ = ["DEVICES", "INTERPRETER", "Device", "device_named"]


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU by its compute capability, or Triton's interpreter.

    Args:
        name: ``"sm_90"``; ``"interpreter"``.
        capability: 80, 89, 90...; of the interpreter that of the machine that it stands for.
        shared_memory: bytes that one program may have (CUDA C++ Programming Guide, table of compute capabilities).
        registers: of 32 bits, that a multiprocessor has.
        interpreted: whether kernels run by Triton's interpreter, on the processor.
    """

    name: str
    capability: int
    shared_memory: int
    registers: int = 65536
    interpreted: bool = False

    @property
    def has_fp8(self) -> bool:
        """Whether its tensor cores multiply e4m3 and e5m2."""
        return self.capability >= 89


#: Those that kernels are compiled for, by name.
DEVICES = {
    device.name: device
    for device in (Device("sm_80", 80, 166_912), Device("sm_89", 89, 101_376), Device("sm_90", 90, 232_448))
}

#: Large tiles: a program costs it a millisecond whatever its size.
INTERPRETER = Device("interpreter", 90, 1 << 30, interpreted=True)


def device_named(name: str) -> Device:
    """A GPU that kernels are compiled for.

    Raises:
        BackendError: none has the name.

    >>> device_named("sm_90").has_fp8
    True
    """
    if name not in DEVICES:
        raise BackendError(f"kernels are not compiled for {name!r}: {expected_one_of(DEVICES)}")
    return DEVICES[name]
