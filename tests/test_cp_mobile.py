"""CP-Mobile against the figures that its authors publish, and through 8 bits and ONNX."""

import pytest
import torch
from classifiers import HERE, classifier, clips, error, logits, observed, onnx_logs
from torch import nn

from asc import InputError
from asc.complexity import complexity
from asc.compress import QAT
from asc.export import export
from asc.nets import CPMobile
from asc.quantization.graph import Add, layer_graph

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


def test_every_layer_has_the_published_size_and_cost():
    net = CPMobile(10)
    seen = []

    def note(conv, inputs, output):
        maps, parameters = tuple(output.shape[2:]), conv.weight.numel() + 2 * conv.out_channels
        seen.append((maps, parameters, output[0].numel() * conv.weight[0].numel() + 2 * conv.out_channels))

    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(note)
    cost = complexity(net, torch.zeros(1, 1, 256, 65))
    assert seen == PUBLISHED
    assert sum(value.numel() for value in net.parameters()) == 61_148 == sum(row[1] for row in PUBLISHED)
    channels = sum(layer.num_features for layer in net.modules() if isinstance(layer, nn.BatchNorm2d))
    assert cost.macs + 2 * channels == 29_419_156
    assert cost.parameters == 61_148 + 2 * channels


def test_costs_of_the_clips_of_this_project():
    cost = complexity(CPMobile(10), torch.zeros(1, 1, 128, 428))
    assert cost.macs == 90_514_432
    assert cost.dcase2020_size_kb == (61_148 - 2 * 1_354) * 4 / 1024


@pytest.mark.usefixtures("device")
def test_blocks_add_where_the_width_stays():
    graph = layer_graph(CPMobile(10))
    assert sum(isinstance(layer, Add) for layer in graph) == 4
    assert sum(isinstance(layer, nn.AvgPool2d) for layer in graph) == 1  # the shortcut of stride 1 x 2


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("shape", [(1, 1), (40, 25), (128, 428)])
def test_clips_of_any_length(shape):
    assert CPMobile(10).eval()(torch.randn(2, 1, *shape)).shape == (2, 10)


@pytest.mark.usefixtures("device")
def test_every_parameter_learns():
    net = CPMobile(3)
    net(torch.randn(4, 1, 32, 44)).square().sum().backward()
    assert all(value.grad is not None and value.grad.any() for value in net.parameters())


def test_settings_are_checked():
    with pytest.raises(InputError, match=r"invalid net.strides=\[\[1, 1\]\]: expected a pair for each of the 2 blocks"):
        CPMobile(3, n_blocks=(1, 1), strides=[[1, 1]])


@pytest.mark.parametrize("engine", HERE)
def test_8_bits(engine, tmp_path):
    model = classifier({"_target_": "asc.nets.CPMobile"})
    x = clips(model)
    fake = observed(model, QAT(engine))
    int8 = QAT(engine).finish(fake)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in int8.net)
    assert error(logits(fake, x), logits(model, x)) < 0.1
    assert error(logits(int8, x), logits(fake, x)) < 0.02
    logs = onnx_logs(export(int8, tmp_path / "model.onnx"), x, engine)
    assert error(logs, logits(int8, x).log_softmax(-1)) < 0.02


def test_onnx_in_floats(tmp_path):
    model = classifier({"_target_": "asc.nets.CPMobile"})
    x = clips(model)
    logs = onnx_logs(export(model, tmp_path / "model.onnx"), x)
    torch.testing.assert_close(logs, logits(model, x).log_softmax(-1), rtol=1e-4, atol=1e-4)
