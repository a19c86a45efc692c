"""Training end to end: LeNet-5 on MNIST under a trust region is as good as fp32 SGD. The longest test."""

import pytest

from precc.demo import EPOCHS, MOMENTUM, accuracy, train_sgd, train_trust_region
from precc.models.mnist import load_mnist

LEARNING_RATES = (0.01, 0.03, 0.1, 0.2, 0.3)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_dynamic_precision_is_within_one_point_of_fp32(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PRECC_DATA", raising=False)
    mnist = load_mnist()
    best = max(
        accuracy(train_sgd(mnist, epochs=EPOCHS, seed=seed, learning_rate=rate, momentum=MOMENTUM), mnist)
        for rate in LEARNING_RATES
    )
    net = train_trust_region(mnist, epochs=EPOCHS, seed=seed, backend="reference")
    work = net.precision_state()["multiply_adds"]
    dynamic = accuracy(net, mnist)
    assert best >= 0.9
    assert dynamic >= 0.9
    assert dynamic >= best - 0.01
    below = sum(part for name, part in work.items() if "float32" not in name)
    assert below / sum(work.values()) >= 0.3
    assert net.compilations == 2
