"""Networks as graphs of layers, and batch norms folded away in them."""

import copy

import pytest
import torch
from classifiers import lived_in
from own_nets import Residual, Sums
from torch import nn

from asc import InputError
from asc.nets import Dcase2020Baseline, PhamCNN
from asc.nets.layers import MaxPoolOverTime
from asc.quantization.fold import Shift, fold, fold_checked, unfoldable_norms
from asc.quantization.graph import Add, LayerGraph, check_same, layer_graph
from asc.quantization.prepare import fusible


def pham(**settings) -> nn.Module:
    """In double precision, with batch norms that do something."""
    return lived_in(PhamCNN(3, **settings)).double()


def assert_folds(net: nn.Module, unfoldable: int, shape=(40, 50), **settings) -> LayerGraph:
    """That folding leaves so many batch norms, and changes no logit."""
    found = unfoldable_norms(net)
    folded = fold(net, found, **settings)
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in folded) == len(found) == unfoldable
    x = torch.randn(3, 1, *shape, dtype=torch.double)
    x[0] = 0
    torch.testing.assert_close(folded(x), net(x), rtol=1e-9, atol=1e-9)
    return folded


# The graph


@pytest.mark.parametrize("kind", [PhamCNN, Dcase2020Baseline])
def test_chain_has_the_names_of_its_checkpoints(kind):
    net = kind(3)
    graph = layer_graph(net)
    assert graph.is_chain
    assert list(graph.state_dict()) == list(nn.Sequential(*graph).state_dict())
    leaves = [layer for layer in net.modules() if next(layer.children(), None) is None]
    assert [layer for layer in graph if not isinstance(layer, nn.Flatten)] == leaves


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("kind", [Residual, Sums])
def test_graph_computes_what_the_network_does(kind):
    net = lived_in(kind(3))
    graph = layer_graph(net)
    assert not graph.is_chain
    assert sum(isinstance(layer, Add) for layer in graph) == 2
    x = torch.randn(2, 1, 32, 32)
    torch.testing.assert_close(copy.deepcopy(graph).eval()(x), net(x))
    check_same(graph, net, x[:1])


def test_values_are_freed_after_their_last_use():
    graph = LayerGraph()
    first = graph.add(nn.ReLU(), -1)
    total = graph.add(Add(), first, first)
    graph.add(Add(), total, first)
    assert graph.last_use == {-1: 0, first: 2, total: 2}
    assert graph(torch.ones(1, 2)).tolist() == [[3, 3]]


def test_chains_fuse_as_in_checkpoints_of_version_0_1():
    chain = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.MaxPool2d(2), nn.Conv2d(2, 2, 1), nn.ReLU())
    assert fusible(layer_graph(chain)) == [["3", "4"]]
    assert fusible(layer_graph(Residual(3)))[-1] == ["14", "15"]  # a convolution and its batch norm


class Wrong(nn.Module):
    """A dense layer around which something is wrong."""

    def __init__(self, forward):
        super().__init__()
        self.dense, self.other, self.function = nn.Linear(4, 4), nn.Linear(4, 4), forward
        self.relu, self.gelu = nn.ReLU(), nn.GELU()

    def forward(self, x):
        return self.function(self, x)


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (lambda net, x: net.dense(x) + 1, "the step add:"),
        (lambda net, x: net.dense(2 * x), "the step mul:"),
        (lambda net, x: torch.cat([net.dense(x), x]), "the step cat:"),
        (lambda net, x: net.gelu(net.dense(x)), "the layer GELU"),
        (lambda net, x: net.dense(net.dense(x)), "twice"),
        (lambda net, x: net.dense(x) if len(x) else x, "torch.fx: "),
        (lambda net, x: [net.dense(x), net.relu(net.other(x)) + x][0], "remove the layers"),
    ],
)
def test_steps_other_than_layers_and_sums_are_rejected(forward, message):
    with pytest.raises(InputError, match=f"cannot quantize or export Wrong.*{message}"):
        layer_graph(Wrong(forward))


@pytest.mark.parametrize(
    "layer",
    [
        *(nn.Conv2d(1, 2, 3, padding="same"), nn.Conv2d(1, 2, 3, padding=1, padding_mode="reflect")),
        *(nn.BatchNorm2d(1, affine=False), nn.AvgPool2d(2, ceil_mode=True), nn.AdaptiveAvgPool2d(2)),
    ],
)
def test_settings_that_integers_or_onnx_lack_are_rejected(layer):
    with pytest.raises(InputError, match="cannot quantize or export"):
        layer_graph(nn.Sequential(layer))


def test_layer_without_weights_may_run_twice():
    net = Wrong(lambda net, x: net.relu(net.other(net.relu(net.dense(x)))))
    graph = layer_graph(net)
    assert len(graph) == len(set(graph)) == 4
    x = torch.randn(2, 4)
    assert torch.equal(graph(x), net(x))


def test_condition_on_sizes_that_changes_the_result_is_rejected():
    net = Wrong(lambda net, x: net.relu(net.dense(x)) if x.shape[-1] > 3 else net.dense(x))
    with pytest.raises(InputError, match="computes something else"):
        check_same(layer_graph(net), net, torch.zeros(5, 4))


# Folding


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("constant_channel", [True, False])
@pytest.mark.parametrize(
    ("make", "shape", "unfoldable"),
    [
        (lambda: PhamCNN(3), (128, 120), 0),
        (lambda: PhamCNN(4, filters=[5, 6, 7, 9]), (37, 61), 0),  # pooling rounds, borders differ
        (lambda: PhamCNN(3, bn_first_block_only=True), (64, 60), 0),
        (lambda: PhamCNN(3, pooling="mean_std"), (40, 50), 1),
        (lambda: Dcase2020Baseline(3), (40, 101), 0),
        (lambda: Residual(3), (32, 32), 0),
        (lambda: Sums(3), (32, 32), 2),
    ],
    ids=["table_2", "odd_sizes", "bn_first_block_only", "mean_std", "baseline", "residual", "sums"],
)
def test_folding_changes_no_logit(make, shape, unfoldable, constant_channel):
    net = lived_in(make()).double()
    before = copy.deepcopy(net.state_dict())
    folded = assert_folds(net, unfoldable, shape, constant_channel=constant_channel)
    assert not any(isinstance(layer, nn.Dropout) for layer in folded.modules())
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


def test_8_bits_get_a_constant_channel_and_floats_a_shift_behind_pooling():
    net = lived_in(PhamCNN(3))
    folded = fold(net, [])
    assert [layer.out_channels for layer in folded if isinstance(layer, nn.Conv2d)] == [33, 64, 128, 256]
    assert sum(p.numel() for p in folded.parameters()) == 60_931 + (9 + 1) + 64 * 9
    folded = fold(net, [], constant_channel=False)
    assert sum(p.numel() for p in folded.parameters()) == 60_931
    before = [type(folded[index - 1]) for index, layer in enumerate(folded) if isinstance(layer, Shift)]
    assert before == [nn.MaxPool2d]


def test_pooling_moves_before_relu():
    net = lived_in(PhamCNN(3))
    x = torch.randn(2, 1, 128, 120)
    folded = fold_checked(net, x[:1])
    kinds = [type(layer).__name__ for layer in folded if isinstance(layer, nn.ReLU | nn.MaxPool2d | MaxPoolOverTime)]
    assert kinds == [*["MaxPool2d", "ReLU"] * 3, "MaxPoolOverTime", "ReLU"]
    torch.testing.assert_close(folded.eval()(x), net(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("block", range(4))
def test_negative_scale_before_max_pooling_keeps_its_batch_norms(block):
    net = pham()
    with torch.no_grad():
        net.blocks[block][3].weight[1] = -1.0
    assert_folds(net, 1 if block == 3 else 2)


def test_negative_scale_right_behind_a_convolution_folds():
    net = lived_in(Dcase2020Baseline(3)).double()
    with torch.no_grad():
        net.features[1].weight[:7] *= -1
    assert_folds(net, 0)


@pytest.mark.parametrize("constant_channel", [True, False])
def test_negative_and_zero_scales_behind_max_pooling_fold(constant_channel):
    net = pham()
    with torch.no_grad():
        net.blocks[1][0].weight[:9] *= -1
        net.blocks[2][0].weight[:5] = 0.0
        net.blocks[0][3].weight[3] = 0.0  # a dead channel
    assert_folds(net, 0, constant_channel=constant_channel)


def test_negative_scale_before_average_pooling_folds():
    net = pham(pooling="average")
    with torch.no_grad():
        net.blocks[3][3].weight[:100] *= -1
    assert_folds(net, 0)


def test_scale_of_0_at_the_input_keeps_its_batch_norm():
    net = pham()
    with torch.no_grad():
        net.blocks[0][0].weight[:] = 0
    assert_folds(net, 1)


class Forked(nn.Module):
    """A batch norm whose input has another user."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.dense = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(4 * 36, 3)

    def forward(self, x):
        x = self.conv(x)
        return self.dense((x + self.norm(x)).flatten(1))


def padded(counted: bool) -> nn.Module:
    """An average over padding between a batch norm and its convolution."""
    average = nn.AvgPool2d(3, 2, padding=1, count_include_pad=counted)
    convolution = nn.Conv2d(1, 4, 3, padding=1)
    return nn.Sequential(convolution, nn.ReLU(), nn.BatchNorm2d(4), average, nn.Conv2d(4, 3, 4), nn.Flatten())


GROUPED = nn.Sequential(
    *(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1, groups=2), nn.Flatten()),
    nn.Linear(4 * 36, 3),
)
OTHERS = {  # networks for 8 x 8 features, and how many batch norms do not fold
    "rectified": (
        nn.Sequential(nn.Conv2d(1, 6, 3), nn.MaxPool2d(2), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3)),
        1,
    ),
    "behind": (nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3)), 0),
    "fork": (Forked(), 1),
    "end": (nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.BatchNorm2d(3), nn.MaxPool2d(6), nn.Flatten()), 1),
    "zeros": (padded(counted=True), 1),
    "values": (padded(counted=False), 0),
    "groups": (GROUPED, 1),
}


@pytest.mark.parametrize(("net", "unfoldable"), OTHERS.values(), ids=OTHERS)
def test_batch_norm_stays_where_no_convolution_can_take_it(net, unfoldable):
    net = lived_in(net).double()
    assert_folds(net, unfoldable, (8, 8))
    if unfoldable and net is not GROUPED:  # where folding it all the same would not even run
        with pytest.raises(InputError, match="computes something else"):
            check_same(fold(net, []).float(), net.float(), torch.zeros(1, 1, 8, 8))
