from collections.abc import Callable

import pytest
import torch
from classifiers import classifier
from torch import nn

from asc.complexity import complexity, count_macs
from asc.compress import QAT
from asc.nets import Dcase2020Baseline, PhamCNN

SMALL = torch.zeros(1, 1, 40, 44)


def filled(net: nn.Module) -> nn.Module:
    """The network without a zero: fresh biases and means are."""
    for value in net.state_dict().values():
        value.fill_(1)
    return net


@pytest.mark.parametrize(
    ("make", "values", "size_kb", "official_kb"),
    [
        (lambda: PhamCNN(3), 63751, 249.03, 238.01),  # facts: 249.0 and 238.0 KB
        (lambda: PhamCNN(3, bn_first_block_only=True), 62855, 245.53, 238.01),  # the report's 245.5 KB
        (lambda: Dcase2020Baseline(3), 115603, 451.57, 450.07),  # 115,219 and 384 of batch norm; 450.07 official
    ],
    ids=["table_2", "bn_first_block_only", "baseline"],
)
def test_sizes_are_the_published_ones(make: Callable, values, size_kb, official_kb):
    cost = complexity(filled(make()), SMALL)
    assert cost.parameters == cost.nonzero_parameters == values
    assert cost.size_kb == pytest.approx(values * 4 / 1024)
    assert cost.size_kb == pytest.approx(size_kb, abs=0.005)
    assert cost.dcase2020_size_kb == pytest.approx(official_kb, abs=0.005)


def test_zeros_are_free_by_both_counts():
    net = PhamCNN(3)
    fresh, full = complexity(net, SMALL), complexity(filled(net), SMALL)
    assert fresh.parameters == full.parameters
    assert fresh.nonzero_parameters < full.nonzero_parameters  # means and batch norm's shifts start at 0

    kernel = net.blocks[3][1].weight  # 128 * 256 values
    with torch.no_grad():
        kernel[:128] = 0
    pruned = complexity(net, SMALL)
    assert pruned.parameters == 63751
    assert pruned.nonzero_parameters == 63751 - 16384
    assert full.size_kb - pruned.size_kb == 64  # 16,384 values of 4 bytes
    assert full.dcase2020_size_kb - pruned.dcase2020_size_kb == 64
    assert pruned.macs == full.macs


def test_half_the_width_is_half_the_size():
    net = filled(PhamCNN(3))
    single, double = complexity(net, SMALL), complexity(net.double(), SMALL.double())
    assert double.size_kb == 2 * single.size_kb
    assert double.dcase2020_size_kb == 2 * single.dcase2020_size_kb
    assert double.parameters == single.parameters


def test_macs_of_table_2_by_hand():
    by_hand = [
        128 * 428 * 32 * 9,  # values of the map * kernel
        64 * 107 * 64 * 288,
        32 * 54 * 128 * 64,
        16 * 13 * 256 * 128,
        256 * 3,
    ]
    assert count_macs(PhamCNN(3), torch.zeros(1, 1, 128, 428)) == sum(by_hand) == 162_972_416


def test_macs_of_the_baseline_by_hand():
    by_hand = [40 * 500 * 32 * 49, 8 * 100 * 64 * 32 * 49, 128 * 100, 100 * 3]
    assert count_macs(Dcase2020Baseline(3), torch.zeros(1, 1, 40, 500)) == sum(by_hand)


@pytest.mark.parametrize("training", [True, False])
def test_counting_leaves_the_network_as_it_was(training):
    net = PhamCNN(3).train(training)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    complexity(net, torch.randn(1, 1, 40, 44))
    assert all(layer.training is training for layer in net.modules())
    assert not any(layer._forward_hooks for layer in net.modules())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_counting_leaves_frozen_layers_frozen():
    net = PhamCNN(3).train()
    net.blocks[0][0].eval()
    complexity(net, SMALL)
    assert not net.blocks[0][0].training
    assert net.blocks[0][3].training


def test_counting_disturbs_nothing():
    """A network in quantization-aware training goes on observing; one in training stays so."""
    model = QAT("qnnpack").begin(classifier())
    model.train()
    model.complexity()
    observers = [layer for layer in model.net.modules() if hasattr(layer, "observer_enabled")]
    assert observers
    assert all(layer.observer_enabled for layer in observers)
    net = PhamCNN(3).train()
    complexity(net, SMALL)
    assert all(layer.training for layer in net.modules())
    assert not any(layer._forward_hooks for layer in net.modules())
