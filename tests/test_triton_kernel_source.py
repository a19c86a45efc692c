"""What a kernel says that it stands for."""

from precc.backends.triton.kernel_source import KernelSource


def test_a_kernel_without_nodes_of_its_own_stands_for_its_group() -> None:
    bare, own = KernelSource("f", "cast", "", ()), KernelSource("f", "cast", "", (), nodes=("mm",), slots=("a",))
    assert bare.standing_for(("t", "mm"), ("a", "b")) == KernelSource(
        "f", "cast", "", (), nodes=("t", "mm"), slots=("a", "b")
    )
    assert own.standing_for(("t", "mm"), ("a", "b")) == own
