import copy

import pytest
import torch
from classifiers import classifier, lived_in
from torch import nn

from asc.nets import Dcase2020Baseline, PhamCNN
from asc.nets.pool import MaxPoolOverTime
from asc.quantization.fold import Shift, fold, fold_checked, unfoldable_norms

NETS = {
    "table_2": (lambda: PhamCNN(3), (128, 120)),
    "odd_sizes": (lambda: PhamCNN(4, filters=[5, 6, 7, 9]), (37, 61)),  # pooling rounds, borders differ
    "bn_first_block_only": (lambda: PhamCNN(3, bn_first_block_only=True), (64, 60)),
    "baseline": (lambda: Dcase2020Baseline(3), (40, 101)),
}


@pytest.mark.parametrize("maps", [True, False], ids=["maps", "shifts"])
@pytest.mark.parametrize(("make", "shape"), NETS.values(), ids=NETS)
def test_folding_changes_no_logit(make, shape, maps):
    net = lived_in(make()).double()
    folded = fold(net, unfoldable_norms(net), constant_maps=maps)
    assert not any(isinstance(layer, nn.BatchNorm2d | nn.Dropout) for layer in folded.modules())
    x = torch.randn(3, 1, *shape, dtype=torch.double)
    x[0] = 0
    torch.testing.assert_close(folded(x), net(x), rtol=1e-9, atol=1e-9)


def test_only_one_map_is_added_and_only_where_a_convolution_pads():
    before = [layer for layer in PhamCNN(3).modules() if isinstance(layer, nn.Conv2d)]
    net = lived_in(PhamCNN(3))
    after = [layer for layer in fold(net, []) if isinstance(layer, nn.Conv2d)]
    assert [layer.out_channels - old.out_channels for layer, old in zip(after, before, strict=True)] == [1, 0, 0, 0]
    assert sum(p.numel() for p in fold(net, []).parameters()) == 60_931 + (9 + 1) + 64 * 9


def test_floats_need_no_further_map_but_a_shift_of_pooled_ones():
    folded = fold(lived_in(PhamCNN(3)), [], constant_maps=False)
    assert sum(p.numel() for p in folded.parameters()) == 60_931
    assert [type(folded[position - 1]) for position, layer in enumerate(folded) if isinstance(layer, Shift)] == [
        nn.MaxPool2d
    ]


def test_pooled_first_relu_has_fewer_values_to_rectify():
    net = lived_in(PhamCNN(3))
    x = torch.randn(2, 1, 128, 120)
    folded = fold_checked(net, x[:1])
    kinds = [type(layer).__name__ for layer in folded if isinstance(layer, nn.ReLU | nn.MaxPool2d | MaxPoolOverTime)]
    assert kinds == [*["MaxPool2d", "ReLU"] * 3, "MaxPoolOverTime", "ReLU"]
    torch.testing.assert_close(folded.eval()(x), net(x), rtol=1e-4, atol=1e-4)


def test_the_network_itself_stays_as_it_is():
    net = lived_in(PhamCNN(3))
    before = copy.deepcopy(net.state_dict())
    fold(net, [])
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


@pytest.mark.parametrize("block", range(4))
def test_a_negative_factor_before_pooling_keeps_its_batch_norms(block):
    net = lived_in(PhamCNN(3)).double()
    with torch.no_grad():
        net.blocks[block][3].weight[1] = -1.0
    unfoldable = unfoldable_norms(net)
    folded = fold(net, unfoldable)
    norms = [layer for layer in folded if isinstance(layer, nn.BatchNorm2d)]
    assert len(norms) == len(unfoldable) == (1 if block == 3 else 2)
    x = torch.randn(2, 1, 40, 50, dtype=torch.double)
    torch.testing.assert_close(folded(x), net(x), rtol=1e-9, atol=1e-9)


def test_a_negative_factor_right_behind_a_convolution_is_no_obstacle():
    net = lived_in(Dcase2020Baseline(3)).double()
    with torch.no_grad():
        net.features[1].weight[:7] *= -1
    assert unfoldable_norms(net) == []
    x = torch.randn(2, 1, 40, 50, dtype=torch.double)
    torch.testing.assert_close(fold(net, [])(x), net(x), rtol=1e-9, atol=1e-9)


def test_an_input_norm_of_factor_0_stays():
    net = lived_in(PhamCNN(3)).double()
    with torch.no_grad():
        net.blocks[0][0].weight[:] = 0
    assert unfoldable_norms(net) == [0]
    x = torch.randn(2, 1, 40, 50, dtype=torch.double)
    torch.testing.assert_close(fold(net, [0])(x), net(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("maps", [True, False], ids=["maps", "shifts"])
def test_a_negative_factor_behind_pooling_is_no_obstacle(maps):
    net = lived_in(PhamCNN(3)).double()
    with torch.no_grad():
        net.blocks[1][0].weight[:5] = -1.0
        net.blocks[2][0].weight[:5] = 0.0
        net.blocks[0][3].weight[3] = 0.0  # a dead channel
    assert unfoldable_norms(net) == []
    x = torch.randn(2, 1, 40, 50, dtype=torch.double)
    torch.testing.assert_close(fold(net, [], constant_maps=maps)(x), net(x), rtol=1e-9, atol=1e-9)


def test_zeros_of_the_kernels_stay_zeros():
    net = lived_in(PhamCNN(3))
    kernels = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    with torch.no_grad():
        for layer in kernels:
            layer.weight[torch.rand_like(layer.weight) < 0.5] = 0
    for old, new in zip(kernels, [x for x in fold(net, []) if isinstance(x, nn.Conv2d | nn.Linear)], strict=True):
        mask = old.weight == 0
        same = new.weight[: mask.shape[0], : mask.shape[1]]  # beside it the constant map
        assert (same[mask] == 0).all()


class Rectified(nn.Sequential):
    """A batch norm whose output is rectified before the next convolution sees it."""

    def __init__(self, pool: bool):
        pooling = [nn.MaxPool2d(2)] if pool else [nn.ReLU()]
        super().__init__(
            nn.Conv2d(1, 6, 3, padding=1), *pooling, nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3, padding=1)
        )


@pytest.mark.parametrize("pool", [True, False], ids=["pooling", "relu"])
def test_a_batch_norm_that_is_rectified_before_the_next_convolution_stays(pool):
    """relu(s x + t) is not s relu(x) + t."""
    net = lived_in(Rectified(pool)).double()
    assert unfoldable_norms(net) == [2]
    folded = fold(net, [2])
    x = torch.randn(2, 1, 12, 14, dtype=torch.double)
    torch.testing.assert_close(folded(x), net(x), rtol=1e-9, atol=1e-9)
    assert not torch.allclose(fold(net, [])(x), net(x), rtol=1e-3, atol=1e-3), "it could have been folded"


def test_a_batch_norm_that_is_rectified_right_behind_its_convolution_folds():
    layers = (nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 4, 3))
    net = lived_in(nn.Sequential(*layers)).double()
    assert unfoldable_norms(net) == []
    x = torch.randn(2, 1, 12, 14, dtype=torch.double)
    torch.testing.assert_close(fold(net, [])(x), net(x), rtol=1e-9, atol=1e-9)


def test_folding_leaves_the_classifier_in_training():
    model = classifier().train()
    assert not model.folded().training
    assert all(layer.training for layer in model.modules())
