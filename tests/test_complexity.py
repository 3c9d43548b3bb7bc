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
def test_sizes_are_the_published_ones(make, values, size_kb, official_kb):
    net = filled(make())
    cost, double = complexity(net, SMALL), complexity(net.double(), SMALL.double())
    assert cost.parameters == cost.nonzero_parameters == values == double.parameters
    assert cost.size_kb == pytest.approx(values * 4 / 1024)
    assert cost.size_kb == pytest.approx(size_kb, abs=0.005)
    assert cost.dcase2020_size_kb == pytest.approx(official_kb, abs=0.005)
    assert (double.size_kb, double.dcase2020_size_kb) == (2 * cost.size_kb, 2 * cost.dcase2020_size_kb)


def test_zeros_are_free_by_both_counts():
    net = PhamCNN(3)
    fresh, full = complexity(net, SMALL), complexity(filled(net), SMALL)
    assert fresh.nonzero_parameters < full.nonzero_parameters  # means and batch norm's shifts start at 0
    with torch.no_grad():
        net.blocks[3][1].weight[:128] = 0  # 128 * 128 of its 256 * 128 values
    pruned = complexity(net, SMALL)
    assert fresh.parameters == full.parameters == pruned.parameters == 63751
    assert pruned.nonzero_parameters == 63751 - 16384
    assert full.size_kb - pruned.size_kb == 64  # 16,384 values of 4 bytes
    assert full.dcase2020_size_kb - pruned.dcase2020_size_kb == 64
    assert pruned.macs == full.macs


def test_macs_by_hand():
    table_2 = [
        128 * 428 * 32 * 9,  # values of the output * weights of a filter
        64 * 107 * 64 * 288,
        32 * 54 * 128 * 64,
        16 * 13 * 256 * 128,
        256 * 3,
    ]
    assert count_macs(PhamCNN(3), torch.zeros(1, 1, 128, 428)) == sum(table_2) == 162_972_416
    baseline = [40 * 500 * 32 * 49, 8 * 100 * 64 * 32 * 49, 128 * 100, 100 * 3]
    assert count_macs(Dcase2020Baseline(3), torch.zeros(1, 1, 40, 500)) == sum(baseline)


def test_counting_leaves_the_network_as_it_was():
    """With one frozen layer."""
    net = PhamCNN(3).train()
    net.blocks[0][0].eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    modes = [layer.training for layer in net.modules()]
    complexity(net, torch.randn(1, 1, 40, 44))
    assert [layer.training for layer in net.modules()] == modes
    assert not any(layer._forward_hooks for layer in net.modules())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_counting_leaves_observers_enabled():
    model = QAT("qnnpack").begin(classifier()).train()
    model.complexity()
    observers = [layer for layer in model.net.modules() if hasattr(layer, "observer_enabled")]
    assert observers
    assert all(layer.observer_enabled for layer in observers)
