"""A place of the user's code that loses digits."""

from dataclasses import dataclass

from precc.source_places import Place

__all__ = ["Finding"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One place, what is wrong there, and what to write instead.

    Args:
        kind: the name of its check.
        node: the name of the node in the graph.
        layer: path of the module that the node runs in.
        where: the line of the user's source.
        problem: one sentence, with numbers.
        better: the better form, as code.
    """

    kind: str
    node: str
    layer: str
    where: Place
    problem: str
    better: str

    def __str__(self) -> str:
        code = [f"    {self.where.code}"] if self.where.file and self.where.code else []
        return "\n".join([f"{self.where}: {self.problem}", *code, f"    better: {self.better}"])
