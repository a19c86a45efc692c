"""Training end to end: LeNet-5 on MNIST under a trust region is as good as fp32 SGD. The longest test."""

import statistics

import pytest

from precc.demo import EPOCHS, accuracy, train_sgd, train_trust_region
from precc.models.mnist import ENVIRONMENT_VARIABLE, load_mnist

LEARNING_RATES = (0.1, 0.2, 0.3)  #: those near the best; 0.03 and 0.01 are 4 and 15 points behind on every seed
SEEDS = (0, 1, 2)


def test_dynamic_precision_is_within_one_point_of_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the mean over the seeds: of one, the last steps and 1,000 test images move it by about a point.

    Another number of threads is another order of sums, and another training: with one thread, and not two, these means
    were 0.959 and 0.971 on a machine where two gave a difference of less than a point.
    """
    monkeypatch.delenv(ENVIRONMENT_VARIABLE, raising=False)
    mnist = load_mnist()
    best, dynamic = [], []
    for seed in SEEDS:
        models = [train_sgd(mnist, epochs=EPOCHS, seed=seed, learning_rate=rate) for rate in LEARNING_RATES]
        best.append(max(accuracy(model, mnist) for model in models))
        net = train_trust_region(mnist, epochs=EPOCHS, seed=seed, backend="cpp")
        work = net.precision_state()["multiply_adds"]
        dynamic.append(accuracy(net, mnist))
        below = sum(part for name, part in work.items() if "float32" not in name)
        assert below / sum(work.values()) >= 0.3
        assert net.compilations == 2
    print(f"fp32 SGD, best of three: {best}; dynamic: {dynamic}")
    assert min(best) >= 0.9
    assert min(dynamic) >= 0.9
    assert statistics.fmean(dynamic) >= statistics.fmean(best) - 0.01
