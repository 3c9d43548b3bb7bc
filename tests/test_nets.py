"""The networks against the numbers that their authors publish, and their layers against torch's."""

import pytest
import torch
from torch import Tensor, nn

from asc.complexity import complexity
from asc.errors import InputError
from asc.nets import CPMobile, Dcase2020Baseline, PhamCNN
from asc.nets.layers import AvgPoolOverTime, Dropout, MaxPoolOverTime, MeanStdPoolOverTime
from asc.quantization.graph import Add, layer_graph

pytestmark = pytest.mark.usefixtures("device")


def trained(net: nn.Module, *kinds: type[nn.Module]) -> list[int]:
    """Trained values of each layer of these kinds, in order."""
    return [sum(value.numel() for value in layer.parameters()) for layer in net.modules() if isinstance(layer, kinds)]


def running(net: nn.Module) -> int:
    """Number of batch norm's running means and variances."""
    return sum(value.numel() for value in net.buffers() if value.is_floating_point())


def sizes(net: nn.Module, layers: nn.Sequential, features: Tensor) -> list[tuple[int, ...]]:
    """(channels, bins, frames) after each of `layers`."""
    seen: list[tuple[int, ...]] = []
    for layer in layers:
        layer.register_forward_hook(lambda layer, inputs, output: seen.append(tuple(output.shape[1:])))
    net(features)
    return seen


# The report's network


@pytest.mark.parametrize("bn_first_block_only", [False, True])
def test_sizes_are_those_of_table_2(bn_first_block_only):
    net = PhamCNN(3, bn_first_block_only=bn_first_block_only)
    expected = [(32, 64, 107), (64, 32, 54), (128, 16, 13), (256, 1, 1)]
    assert sizes(net, net.blocks, torch.randn(2, 1, 128, 428)) == expected


def test_default_layers_and_parameters_are_those_of_table_2():
    net = PhamCNN(3)
    for block, dropout in zip(net.blocks, [0.20, 0.25, 0.30, 0.35], strict=True):
        kinds = [nn.BatchNorm2d, nn.Conv2d, nn.ReLU, nn.BatchNorm2d]
        assert [type(layer) for layer in block[:4]] == kinds
        assert isinstance(block[4], nn.MaxPool2d | MaxPoolOverTime)
        assert isinstance(block[5], nn.Dropout)
        assert block[5].p == dropout
    # 3*3*1*32 + 32, 3*3*32*64 + 64, 64*128 + 128, 128*256 + 256
    assert trained(net, nn.Conv2d) == [320, 18496, 8320, 33024]
    assert trained(net, nn.Linear) == [771]  # 256*3 + 3
    assert trained(net, nn.BatchNorm2d) == [2 * n for n in (1, 32, 32, 64, 64, 128, 128, 256)]
    assert sum(trained(net, nn.Conv2d, nn.Linear)) == 60931
    assert sum(trained(net, nn.Conv2d, nn.Linear, nn.BatchNorm2d)) == 62341
    assert running(net) == 1410


def test_pooling_needs_exactly_5_bins_and_25_frames():
    # bins 5, 3, 2, 1 and 4, 2, 1, 0; frames 25, 7, 4, 1 and 24, 6, 3, 0
    net = PhamCNN(3).eval()
    assert net(torch.randn(1, 1, 5, 25)).shape == (1, 3)
    for bins, frames in [(4, 25), (5, 24)]:
        with pytest.raises(RuntimeError, match="too small"):
            net.blocks(torch.randn(1, 1, bins, frames))
        with pytest.raises(InputError, match=f"{bins} x {frames}"):
            net(torch.randn(1, 1, bins, frames))
    with pytest.raises(InputError, match="frontend.hop_length to 62 %"):  # 1 s at 16 kHz: of 1024, 634
        net(torch.randn(1, 1, 128, 1 + 16000 // 1024))
    net(torch.randn(1, 1, 128, 1 + 16000 // 634))


@pytest.mark.parametrize(("pooling", "columns"), [("average", 256), ("mean_std", 512)])
def test_other_poolings_have_sizes_of_their_own(pooling, columns):
    net = PhamCNN(3, pooling=pooling)
    assert sum(value.numel() for value in net.parameters()) == 62_341 + 3 * (columns - 256)
    net(torch.zeros(2, 1, 16, 32)).sum().backward()
    assert all(value.grad.isfinite().all() for value in net.parameters())
    with pytest.raises(InputError, match="net.pooling=median"):
        PhamCNN(3, pooling="median")


# The official baseline


def test_baseline_sizes_and_parameters_are_the_official_ones():
    net = Dcase2020Baseline(3)
    assert trained(net, nn.Conv2d) == [1600, 100416]  # 7*7*1*32 + 32, 7*7*32*64 + 64
    assert trained(net, nn.Linear) == [12900, 303]  # 64*2*100 + 100, 100*3 + 3
    assert sum(trained(net, nn.Conv2d, nn.Linear)) == 115219
    assert sum(trained(net, nn.BatchNorm2d)) + running(net) == 128 + 256  # Keras counts all four arrays
    seen = sizes(net, net.features, torch.randn(2, 1, 40, 500))
    assert [seen[index] for index in (0, 3, 5, -1)] == [(32, 40, 500), (32, 8, 100), (64, 8, 100), (64, 2, 1)]


def test_baseline_convolutions_start_glorot_uniform():
    for layer in Dcase2020Baseline(3).features:
        if isinstance(layer, nn.Conv2d):
            bound = (6 / (49 * (layer.in_channels + layer.out_channels))) ** 0.5
            assert layer.weight.abs().max() <= bound
            # a uniform variable's deviation is its bound / sqrt(3); of 1568 values it is known to 1.1 %
            assert layer.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.06)
            assert not layer.bias.any()


def test_baseline_needs_its_bins_at_least_20_and_5_frames():
    assert Dcase2020Baseline(3, n_bins=20).eval()(torch.randn(1, 1, 20, 5)).shape == (1, 3)  # 20 // 5 // 4 = 1
    with pytest.raises(InputError, match="n_bins=19"):
        Dcase2020Baseline(3, n_bins=19)
    for bins, frames in [(39, 500), (40, 4)]:
        with pytest.raises(InputError, match=f"{bins} x {frames}"):
            Dcase2020Baseline(3)(torch.randn(1, 1, bins, frames))


# CP-Mobile

# README of CPJKU/dcase2024_task1_baseline: (output's bins and frames, parameters, multiply-accumulates) of each
# convolution with its batch norm, for which it counts one more for each of its parameters. Input 256 x 65.
PUBLISHED = [
    *(((128, 33), 88, 304_144), ((64, 17), 2_368, 2_506_816)),
    *(((64, 17), 2_176, 2_228_352), ((64, 17), 704, 626_816), ((64, 17), 2_112, 2_228_288)),
    *(((64, 17), 2_176, 2_228_352), ((64, 17), 704, 626_816), ((64, 17), 2_112, 2_228_288)),
    *(((64, 17), 2_176, 2_228_352), ((64, 9), 704, 331_904), ((64, 9), 2_112, 1_179_712)),
    *(((64, 9), 2_176, 1_179_776), ((32, 9), 704, 166_016), ((32, 9), 3_696, 1_032_304)),
    *(((32, 9), 6_960, 1_935_600), ((32, 9), 1_320, 311_280), ((32, 9), 6_832, 1_935_472)),
    *(((32, 9), 6_960, 1_935_600), ((32, 9), 1_320, 311_280), ((32, 9), 12_688, 3_594_448)),
    ((32, 9), 1_040 + 20, 299_520 + 20),
]


def test_every_layer_of_cp_mobile_has_the_published_size_and_cost():
    net = CPMobile(10)
    seen = []

    def record(conv, inputs, output):
        size, parameters = tuple(output.shape[2:]), conv.weight.numel() + 2 * conv.out_channels
        seen.append((size, parameters, output[0].numel() * conv.weight[0].numel() + 2 * conv.out_channels))

    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(record)
    cost = complexity(net, torch.zeros(1, 1, 256, 65))
    assert seen == PUBLISHED
    assert sum(value.numel() for value in net.parameters()) == 61_148 == sum(row[1] for row in PUBLISHED)
    channels = sum(layer.num_features for layer in net.modules() if isinstance(layer, nn.BatchNorm2d))
    assert cost.macs + 2 * channels == 29_419_156
    assert cost.parameters == 61_148 + 2 * channels
    assert cost.dcase2020_size_kb == (61_148 - 2 * 1_354) * 4 / 1024
    assert complexity(CPMobile(10), torch.zeros(1, 1, 128, 428)).macs == 90_514_432


def test_cp_mobile_adds_where_the_width_stays():
    graph = layer_graph(CPMobile(10))
    assert sum(isinstance(layer, Add) for layer in graph) == 4
    assert sum(isinstance(layer, nn.AvgPool2d) for layer in graph) == 1  # the shortcut of stride 1 x 2
    with pytest.raises(InputError, match=r"invalid net.strides=\[\[1, 1\]\]: expected a pair for each of the 2 blocks"):
        CPMobile(3, n_blocks=(1, 1), strides=[[1, 1]])


# All


@pytest.mark.parametrize("frames", [44, 428])
@pytest.mark.parametrize(("kind", "bins"), [(PhamCNN, 128), (Dcase2020Baseline, 40), (CPMobile, 128)])
def test_any_clip_length_gives_logits_and_gradients_of_every_parameter(kind, bins, frames):
    net = kind(10)
    logits = net(torch.randn(2, 1, bins, frames))
    assert logits.shape == (2, 10)
    assert not torch.equal(logits[0], logits[1])
    logits.square().sum().backward()
    assert all(value.grad is not None and value.grad.any() for value in net.parameters())


@pytest.mark.parametrize(("kind", "halves"), [(PhamCNN, [0.1, 0.125, 0.15, 0.175]), (Dcase2020Baseline, [0.15] * 3)])
def test_dropout_scale_multiplies_every_dropout(kind, halves):
    dropouts = [layer.p for layer in kind(3, dropout_scale=0.5).modules() if isinstance(layer, nn.Dropout)]
    assert dropouts == pytest.approx(halves)
    with pytest.raises(InputError, match="net.dropout_scale=10"):
        kind(3, dropout_scale=10)


# Layers


def test_pooling_over_time_is_torchs_reduction():
    x = torch.randn(2, 3, 6, 5)
    torch.testing.assert_close(MaxPoolOverTime()(x), x.amax((2, 3), keepdim=True))
    torch.testing.assert_close(AvgPoolOverTime()(x), x.mean((2, 3), keepdim=True))
    halves = torch.stack([x[:, :, :3], x[:, :, 3:]], 2)
    torch.testing.assert_close(AvgPoolOverTime(height=3)(x)[..., 0], halves.mean((3, 4)))
    mean_std = MeanStdPoolOverTime()(x)
    torch.testing.assert_close(mean_std[:, :, 0, 0], x.mean((2, 3)))
    torch.testing.assert_close(mean_std[:, :, 1, 0], x.std((2, 3), correction=0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("p", [0.2, 0.35])
def test_dropout_drops_the_fraction_and_keeps_the_mean(p):
    x = torch.ones(8, 16, 32, 54).to(memory_format=torch.channels_last).requires_grad_()
    y = Dropout(p)(x)
    assert (y == 0).float().mean().item() == pytest.approx(p, abs=5 * (p * (1 - p) / x.numel()) ** 0.5)
    assert y.max().item() == pytest.approx(1 / (1 - p), rel=1e-4)
    assert y.stride() == x.stride()
    y.sum().backward()
    assert torch.equal(x.grad, y), "the gradient passes where the value does"


def test_dropout_draws_every_value_independently():
    """Four values share a draw: none of its parts may correlate with another, or with the neighbouring draw."""
    dropped = (Dropout(0.5)(torch.ones(400_000)) == 0).float().view(-1, 8)
    assert (dropped.mean(0) - 0.5).abs().max() < 5 * 0.5 / 50_000**0.5
    assert (torch.corrcoef(dropped.T) - torch.eye(8)).abs().max() < 5 / 50_000**0.5
    assert (dropped[:-1, 7] * dropped[1:, 0]).mean().item() == pytest.approx(0.25, abs=5 * 0.433 / 50_000**0.5)


def test_dropout_is_the_identity_in_inference_and_for_0():
    x = torch.randn(3, 5)
    assert torch.equal(Dropout(0.5).eval()(x), x)
    before = torch.get_rng_state()
    assert torch.equal(Dropout(0.0)(x), x)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("p", [1e-9, 2**-18, 1 - 2**-18])
def test_dropout_at_its_ends_is_torchs(p):
    """Less than half a step of 2^-16 from none and all."""
    x = torch.ones(1000)
    torch.testing.assert_close(Dropout(p)(x), nn.Dropout(round(p))(x))
