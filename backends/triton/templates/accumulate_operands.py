"""The operands of a product with a rounded sum in a kernel's text: where they lie, and what they are rounded to."""

from dataclasses import dataclass

import torch

from precc.backends.triton.emit.conversions import POINTERS, to_carrier, to_dtype
from precc.backends.triton.emit.device_functions import joined
from precc.backends.triton.emit.live_numbers import live_argument, scale_line
from precc.backends.triton.emit.rounding import RoundingText
from precc.backends.triton.emit.scales import divided_text
from precc.backends.triton.kernel_source import Argument

__all__ = ["Operand"]


@dataclass(frozen=True, slots=True)
class Operand:
    """An operand, loaded as float64.

    Args:
        dtype: of the tensor: float32, float64, bfloat16 or float16.
        rounding: to what its values are rounded when they are loaded; None where they are as they should be.
        scaled: whether the rounding has a static scale.
        transposed: whether random numbers go by the indices of the tensor with its last two dimensions swapped.
        gathered: whether elements lie at sums of three offsets, as those of `precc.accumulation.patches.Patches`.
    """

    dtype: torch.dtype
    rounding: RoundingText | None = None
    scaled: bool = False
    transposed: bool = False
    gathered: bool = False

    def arguments(self, name: str) -> tuple[Argument, ...]:
        """At run time: the tensor, its strides (or offsets) along items, the two dimensions, and for the rounding."""
        of_place = "*i64" if self.gathered else "i64"
        places = [Argument(f"{name}_{place}", of_place) for place in ("item", "outer", "inner")]
        own = [live_argument(name)] if self.reads_numbers else []
        return (Argument(f"{name}_ptr", POINTERS[self.dtype]), *places, *own)

    @property
    def reads_numbers(self) -> bool:
        """Whether a kernel is given the numbers of the live row."""
        return self.rounding is not None and (self.scaled or self.rounding.draws > 0)

    def place(self, name: str, part: str, index: str, mask: str = "") -> str:
        """The expression for how far an index of one part moves the address."""
        if not self.gathered:
            return f"{index}.to(tl.int64) * {name}_{part}"
        return f"tl.load({name}_{part} + {index}{f', mask={mask}, other=0' if mask else ''})"

    def loaded(self, name: str, address: str, mask: str, index: str) -> list[str]:
        """Lines that make `name` a block of float64; `index` is that of elements in the tensor."""
        lines = [f"{name} = tl.load({address}, mask={mask}, other=0.0)"]
        if self.rounding is None:
            return [*lines, f"{name} = {to_carrier(self.dtype, 'tl.float64').of(name)}"] if self._converts else lines
        carrier = self.rounding.carrier
        value = to_carrier(self.dtype, carrier).of(name)
        if self.scaled:
            divided, _ = divided_text(carrier)
            value = f"{divided}({value}, {name}_unit)"
        rounded = self.rounding.call(value, index, name)
        lines.append(f"{name} = {rounded}{f' * {name}_unit' if self.scaled else ''}")
        for conversion in (to_dtype(carrier, self.dtype), to_carrier(self.dtype, "tl.float64")):
            if conversion.of(name) != name:
                lines.append(f"{name} = {conversion.of(name)}")
        return lines

    def before(self, name: str) -> list[str]:
        """Lines before any element is loaded."""
        if self.rounding is None:
            return []
        unit = [scale_line(f"{name}_unit", name, self.rounding.carrier)] if self.scaled else []
        return [*unit, *self.rounding.before(name)]

    @property
    def functions(self) -> str:
        """What the lines call."""
        texts = [to_carrier(self.dtype, "tl.float64").functions]
        if self.rounding is not None:
            carrier = self.rounding.carrier
            texts += [to_carrier(self.dtype, carrier).functions, to_dtype(carrier, self.dtype).functions]
            texts += [divided_text(carrier)[1]] if self.scaled else []
            texts.append(self.rounding.functions)
        return joined(*texts)

    @property
    def _converts(self) -> bool:
        return self.dtype is not torch.float64
