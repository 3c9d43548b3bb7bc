import pytest
import torch
from torch import nn

from asc.errors import InputError
from asc.nets import Dcase2020Baseline, PhamCNN
from asc.nets.dropout import Dropout

pytestmark = pytest.mark.usefixtures("device")


def trained(net: nn.Module, *kinds: type[nn.Module]) -> list[int]:
    """Trained values of each layer of these kinds, in order."""
    return [sum(value.numel() for value in layer.parameters()) for layer in net.modules() if isinstance(layer, kinds)]


def running(net: nn.Module) -> int:
    """Batch norm's running means and variances."""
    return sum(value.numel() for value in net.buffers() if value.is_floating_point())


def sizes(net: nn.Module, layers: nn.Sequential, features: torch.Tensor) -> list[tuple[int, ...]]:
    """(channels, bins, frames) that leave each of `layers`."""
    seen: list[tuple[int, ...]] = []
    for layer in layers:
        layer.register_forward_hook(lambda layer, inputs, output: seen.append(tuple(output.shape[1:])))
    net(features)
    return seen


# The report's network


@pytest.mark.parametrize("bn_first_block_only", [False, True])
def test_sizes_are_those_of_table_2(bn_first_block_only):
    net = PhamCNN(3, bn_first_block_only=bn_first_block_only)
    assert sizes(net, net.blocks, torch.randn(2, 1, 128, 428)) == [
        (32, 64, 107),
        (64, 32, 54),
        (128, 16, 13),
        (256, 1, 1),
    ]


def test_parameters_of_each_layer_are_those_of_table_2():
    net = PhamCNN(3)
    # 3*3*1*32 + 32, 3*3*32*64 + 64, 64*128 + 128, 128*256 + 256
    assert trained(net, nn.Conv2d) == [320, 18496, 8320, 33024]
    assert trained(net, nn.Linear) == [771]  # 256*3 + 3
    assert trained(net, nn.BatchNorm2d) == [2 * n for n in (1, 32, 32, 64, 64, 128, 128, 256)]
    assert sum(trained(net, nn.Conv2d, nn.Linear)) == 60931
    assert sum(trained(net, nn.Conv2d, nn.Linear, nn.BatchNorm2d)) == 62341
    assert running(net) == 1410
    assert sum(value.numel() for value in net.parameters()) + running(net) == 63751


def test_one_input_norm_gives_the_reports_245_kb():
    net = PhamCNN(3, bn_first_block_only=True)
    assert trained(net, nn.BatchNorm2d) == [2 * n for n in (1, 32, 64, 128, 256)]
    # 60,931 + 4 * (1 + 32 + 64 + 128 + 256); 62,855 * 4 / 1024 = 245.5
    assert sum(value.numel() for value in net.parameters()) + running(net) == 62855


def test_blocks_are_bn_cv_relu_bn_mp_dr():
    for block in PhamCNN(3).blocks:
        norm, convolution, relu, second_norm, pool, dropout = block
        assert isinstance(norm, nn.BatchNorm2d)
        assert isinstance(convolution, nn.Conv2d)
        assert isinstance(relu, nn.ReLU)
        assert isinstance(second_norm, nn.BatchNorm2d)
        assert "Pool" in type(pool).__name__
        assert isinstance(dropout, nn.Dropout)


def test_dropouts_are_those_of_table_2():
    assert [layer.p for layer in PhamCNN(3).modules() if isinstance(layer, nn.Dropout)] == [0.20, 0.25, 0.30, 0.35]


@pytest.mark.parametrize(("net", "halves"), [(PhamCNN, [0.1, 0.125, 0.15, 0.175]), (Dcase2020Baseline, [0.15] * 3)])
def test_dropout_scale_multiplies_every_dropout(net, halves):
    dropouts = [layer.p for layer in net(3, dropout_scale=0.5).modules() if isinstance(layer, nn.Dropout)]
    assert dropouts == pytest.approx(halves)


def test_the_last_pooling_takes_the_largest_of_each_map():
    pool = PhamCNN(3).blocks[3][4]
    x = torch.randn(2, 256, 16, 13)
    assert torch.equal(pool(x), x.amax((2, 3), keepdim=True))


def test_pooling_leaves_something_exactly_from_5_bins_and_25_frames_on():
    # bins 5, 3, 2, 1 and 4, 2, 1, 0; frames 25, 7, 4, 1 and 24, 6, 3, 0
    net = PhamCNN(3).eval()
    assert net(torch.randn(1, 1, 5, 25)).shape == (1, 3)
    for bins, frames in [(4, 25), (5, 24)]:
        with pytest.raises(RuntimeError, match="too small"):
            net.blocks(torch.randn(1, 1, bins, frames))
        with pytest.raises(InputError, match=f"{bins} x {frames}"):
            net(torch.randn(1, 1, bins, frames))


# The official baseline


def test_baseline_sizes_are_the_official_ones():
    net = Dcase2020Baseline(3)
    seen = sizes(net, net.features, torch.randn(2, 1, 40, 500))
    assert seen[0] == (32, 40, 500)
    assert seen[3] == (32, 8, 100)
    assert seen[5] == (64, 8, 100)
    assert seen[-1] == (64, 2, 1)


def test_baseline_parameters_are_the_official_ones():
    net = Dcase2020Baseline(3)
    assert trained(net, nn.Conv2d) == [1600, 100416]  # 7*7*1*32 + 32, 7*7*32*64 + 64
    assert trained(net, nn.Linear) == [12900, 303]  # 64*2*100 + 100, 100*3 + 3
    assert sum(trained(net, nn.Conv2d, nn.Linear)) == 115219
    assert sum(trained(net, nn.BatchNorm2d)) + running(net) == 128 + 256  # Keras counts all four arrays


def test_baseline_convolutions_start_glorot_uniform():
    for layer in Dcase2020Baseline(3).features:
        if isinstance(layer, nn.Conv2d):
            bound = (6 / (49 * (layer.in_channels + layer.out_channels))) ** 0.5
            assert layer.weight.abs().max() <= bound
            # a uniform variable's deviation is its bound / sqrt(3); of 1568 values it is known to 1.1 %
            assert layer.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.06)
            assert not layer.bias.any()


@pytest.mark.parametrize(("bins", "frames"), [(39, 500), (41, 500), (40, 4)])
def test_baseline_refuses_what_it_was_not_made_for(bins, frames):
    with pytest.raises(InputError, match=f"{bins} x {frames}"):
        Dcase2020Baseline(3)(torch.randn(1, 1, bins, frames))


def test_baseline_needs_20_bins():
    # 20 // 5 // 4 = 1 and 19 // 5 // 4 = 0
    assert Dcase2020Baseline(3, n_bins=20).eval()(torch.randn(1, 1, 20, 5)).shape == (1, 3)
    with pytest.raises(InputError, match="19"):
        Dcase2020Baseline(3, n_bins=19)


# Both


@pytest.mark.parametrize("frames", [44, 216, 428])
@pytest.mark.parametrize(("net", "bins"), [(PhamCNN, 128), (Dcase2020Baseline, 40)])
def test_ten_classes_and_any_clip_length(net, bins, frames):
    logits = net(10).eval()(torch.randn(2, 1, bins, frames))
    assert logits.shape == (2, 10)
    assert not torch.equal(logits[0], logits[1])


@pytest.mark.parametrize(("net", "bins"), [(PhamCNN, 128), (Dcase2020Baseline, 40)])
def test_every_parameter_learns(net, bins):
    net = net(3)
    net(torch.randn(2, 1, bins, 44)).square().sum().backward()
    assert all(value.grad is not None and value.grad.any() for value in net.parameters())


@pytest.mark.parametrize("share", [0.2, 0.35])
def test_dropout_drops_the_share_and_keeps_the_mean(share):
    layer = Dropout(share)
    x = torch.ones(8, 16, 32, 54).to(memory_format=torch.channels_last).requires_grad_()
    y = layer(x)
    n = x.numel()
    assert (y == 0).float().mean().item() == pytest.approx(share, abs=5 * (share * (1 - share) / n) ** 0.5)
    assert y.max().item() == pytest.approx(1 / (1 - share), rel=1e-4)
    assert y.stride() == x.stride()
    y.sum().backward()
    assert torch.equal(x.grad, y), "the gradient must pass where the value has"


def test_dropout_draws_every_value_by_itself():
    """Four values share a draw: none of its four parts may lean on another, or on the neighbouring draw."""
    dropped = (Dropout(0.5)(torch.ones(400_000)) == 0).float().view(-1, 8)
    assert (dropped.mean(0) - 0.5).abs().max() < 5 * 0.5 / 50_000**0.5
    assert (torch.corrcoef(dropped.T) - torch.eye(8)).abs().max() < 5 / 50_000**0.5
    assert (dropped[:-1, 7] * dropped[1:, 0]).mean().item() == pytest.approx(0.25, abs=5 * 0.433 / 50_000**0.5)


def test_dropout_leaves_inference_and_a_share_of_0_alone():
    x = torch.randn(3, 5)
    assert torch.equal(Dropout(0.5).eval()(x), x)
    before = torch.get_rng_state()
    assert torch.equal(Dropout(0.0)(x), x)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("share", [1e-9, 2**-18, 1 - 2**-18])
def test_dropout_at_its_ends_is_that_of_torch(share):
    """Less than half a step of 2^-16 from none and all."""
    layer, x = Dropout(share), torch.ones(1000)
    torch.testing.assert_close(layer(x), nn.Dropout(round(share))(x))
