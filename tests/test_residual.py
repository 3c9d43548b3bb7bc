"""Networks that are graphs: a user's own ones with sums, forks and grouped convolutions."""

import copy

import pytest
import torch
import torch.nn.functional as F
from classifiers import HERE, classifier, clips, error, lived_in, logits, observed, onnx_logs, save
from torch import nn
from torch.ao.nn import quantized as nnq

from asc import InputError, SceneClassifier
from asc.compress import QAT, Prune, PruneFilters
from asc.export import export
from asc.nets import Dcase2020Baseline, PhamCNN
from asc.quantization.fold import fold, unfoldable_norms
from asc.quantization.graph import Add, LayerGraph, check_same, layer_graph
from asc.quantization.quantize import fusible


class Block(nn.Module):
    """relu(x + body(x)), the sum written as one writes it."""

    def __init__(self, width: int):
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False), nn.BatchNorm2d(width), nn.ReLU()),
            *(nn.Conv2d(width, width, 1), nn.BatchNorm2d(width)),
        )

    def forward(self, x):
        return F.relu(x + self.body(x))


class OwnResidual(nn.Module):
    """A network of 8 maps, which two blocks change in place of each other's shortcut."""

    def __init__(self, n_classes: int):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, 2, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.first, self.second = Block(8), Block(8)
        self.pool, self.average = nn.MaxPool2d(3, 2, padding=1), nn.AdaptiveAvgPool2d(1)
        self.dense = nn.Linear(8, n_classes)

    def forward(self, x):
        if x.shape[-1] < 4:
            raise ValueError(f"{x.shape[-1]} frames are too few")
        x = self.second(self.pool(self.first(self.stem(x))))
        return self.dense(self.average(x).view(x.size(0), -1))


class Accumulator(nn.Module):
    """Norms before their convolutions, a strided shortcut, a norm behind a fork, `+=`, a sum of three."""

    def __init__(self, n_classes: int):
        super().__init__()
        self.norm, self.stem = nn.BatchNorm2d(1), nn.Conv2d(1, 6, 3, padding=1)
        self.body = nn.Sequential(nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3, stride=2, padding=1))
        self.shortcut = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(6, 6, 1, bias=False))
        self.scaled = nn.Sequential(nn.MaxPool2d(2), nn.BatchNorm2d(6))
        self.tail = nn.Sequential(nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(6, 8, 1), nn.Dropout2d(0.1))
        self.last = nn.Sequential(nn.ReLU(), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d((1, 1)))
        self.dense = nn.Linear(8, n_classes)

    def forward(self, x):
        x = self.stem(self.norm(x))
        y = self.body(x) + self.shortcut(x)
        y += self.scaled(x)
        return self.dense(self.last(self.tail(y)).squeeze(3).squeeze(2))


NETS = {"residual": OwnResidual, "sums": Accumulator}


def own(name: str) -> SceneClassifier:
    return classifier({"_target_": f"{__name__}.{NETS[name].__name__}"})


# The graph


@pytest.mark.parametrize("make", [PhamCNN, Dcase2020Baseline])
def test_a_chain_has_the_names_that_its_checkpoints_have(make):
    net = make(3)
    graph = layer_graph(net)
    assert graph.is_chain
    assert isinstance(graph, nn.Sequential)
    assert list(graph.state_dict()) == list(nn.Sequential(*graph).state_dict())
    leaves = [layer for layer in net.modules() if next(layer.children(), None) is None]
    assert [layer for layer in graph if not isinstance(layer, nn.Flatten)] == leaves


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("name", NETS)
def test_the_graph_computes_what_the_network_does(name):
    net = lived_in(NETS[name](3))
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


# Folding


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize(("name", "left"), [("residual", 0), ("sums", 2)])
def test_folding_changes_no_logit(name, left):
    net = lived_in(NETS[name](3)).double()
    folded = fold(net, unfoldable_norms(net))
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in folded) == left
    x = torch.randn(3, 1, 32, 32, dtype=torch.double)
    torch.testing.assert_close(folded(x), net(x), rtol=1e-9, atol=1e-9)


def forked(norm: nn.Module) -> nn.Module:
    class Forked(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.dense = nn.Conv2d(1, 4, 3), norm, nn.Linear(4 * 36, 3)

        def forward(self, x):
            x = self.conv(x)
            return self.dense((x + self.norm(x)).flatten(1))

    return lived_in(Forked()).double()


LAST = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.BatchNorm2d(3), nn.MaxPool2d(6), nn.Flatten())
PADDED = nn.Sequential(
    *(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(4), nn.AvgPool2d(3, 2, padding=1)),
    *(nn.Conv2d(4, 3, 4), nn.Flatten()),
)
GROUPED = nn.Sequential(
    *(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1, groups=2), nn.Flatten()),
    nn.Linear(4 * 36, 3),
)


@pytest.mark.parametrize(
    "net", [forked(nn.BatchNorm2d(4)), LAST, PADDED, GROUPED], ids=["fork", "end", "zeros", "groups"]
)
def test_a_norm_that_no_convolution_can_take_stays(net):
    net = lived_in(net).double()
    unfoldable = unfoldable_norms(net)
    assert len(unfoldable) == 1
    x = torch.randn(2, 1, 8, 8, dtype=torch.double)
    torch.testing.assert_close(fold(net, unfoldable)(x), net(x), rtol=1e-9, atol=1e-9)
    if net is not GROUPED:  # where folding it all the same would not even run
        with pytest.raises(InputError, match="computes something else"):
            check_same(fold(net, []).float(), net.float(), x[:1].float())


def test_averages_over_single_values_let_a_norm_pass():
    net = copy.deepcopy(PADDED)
    net[3].count_include_pad = False
    net = lived_in(net).double()
    net[2].weight.data[:2] *= -1
    assert unfoldable_norms(net) == []
    x = torch.randn(2, 1, 8, 8, dtype=torch.double)
    torch.testing.assert_close(fold(net, [])(x), net(x), rtol=1e-9, atol=1e-9)


# 8 bits and ONNX


@pytest.mark.parametrize("fold", [True, False], ids=["folded", "norms"])
@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("engine", HERE)
def test_the_integers_compute_what_fine_tuning_saw(engine, name, fold, tmp_path):
    model, phase = own(name), QAT(engine, fold)
    fake = observed(model, phase)
    int8 = phase.finish(fake)
    x = clips(model)
    assert error(logits(fake, x), logits(model, x)) < 0.1
    step = next(layer for layer in reversed(int8.net) if isinstance(layer, nnq.Linear)).scale
    assert (logits(int8, x) - logits(fake, x)).abs().max() <= 3.01 * step  # a few roundings of ties
    logs = onnx_logs(export(int8, tmp_path / "model.onnx"), x, engine)
    assert (logs - logits(int8, x).log_softmax(-1)).abs().max() <= 4.01 * step


@pytest.mark.parametrize("name", NETS)
def test_onnx_computes_what_the_network_does(name, tmp_path):
    model = own(name)
    x = clips(model)
    logs = onnx_logs(export(model, tmp_path / "model.onnx"), x)
    torch.testing.assert_close(logs, logits(model, x).log_softmax(-1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(logits(model.folded(), x), logits(model, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("fold", [True, False])
def test_every_stage_loads_with_the_same_logits_bit_for_bit(name, fold, tmp_path):
    model, phase = own(name), QAT(fold=fold)
    fake = observed(model, phase)
    x = clips(model)
    for stage in (model, fake, phase.finish(fake)):
        path = save(stage, tmp_path / f"{stage.stage}.ckpt")
        loaded = SceneClassifier.load_from_checkpoint(path, trusted=[__name__])
        assert torch.equal(logits(loaded, x), logits(stage, x))
        assert loaded.complexity() == stage.complexity()


def test_a_sum_and_the_relu_behind_it_are_one_layer():
    int8 = QAT().finish(observed(own("residual"), QAT()))
    kinds = [type(layer).__name__ for layer in int8.net]
    assert kinds.count("AddReLU") == 2
    assert not {"Add", "ReLU", "BatchNorm2d"} & set(kinds)


def test_what_is_fused_behind_convolutions_of_chains_is_what_their_checkpoints_have():
    chain = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.MaxPool2d(2), nn.Conv2d(2, 2, 1), nn.ReLU())
    assert fusible(layer_graph(chain)) == [["3", "4"]]
    assert fusible(layer_graph(OwnResidual(3)))[-1] == ["14", "15"]  # depthwise and pointwise with theirs


def test_an_average_is_taken_of_floats_and_has_its_own_grid():
    int8 = QAT().finish(observed(own("residual"), QAT()))
    at = next(position for position, layer in enumerate(int8.net) if type(layer).__name__ == "AvgPoolOverTime")
    kinds = [type(int8.net[position]) for position in (at - 1, at + 1)]
    assert kinds == [nnq.DeQuantize, nn.Flatten]
    assert isinstance(int8.net[at + 2], nnq.Quantize)


# Costs and pruning


def test_multiply_accumulates_of_grouped_convolutions_by_hand():
    model = own("residual")
    x, channels = model.example_features(), 8
    assert x.shape == (1, 1, 32, 32)
    block = 9 * channels + channels**2  # depthwise, pointwise; of a value
    assert model.complexity().macs == 16 * 16 * (9 * channels + block) + 8 * 8 * block + channels * 3
    assert QAT().finish(observed(model, QAT())).complexity().macs == model.complexity().macs


def test_single_weights_can_be_pruned_and_filters_cannot():
    model = own("residual")
    assert Prune(0.5).begin(model) is model
    with pytest.raises(InputError, match="OwnResidual has sums or grouped convolutions"):
        PruneFilters(0.5).begin(model)


# Refusals


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
        (lambda net, x: net.dense(x) + 1, "a step that can be neither quantized nor exported, add:"),
        (lambda net, x: net.dense(2 * x), "a step that can be neither quantized nor exported, mul:"),
        (lambda net, x: torch.cat([net.dense(x), x]), "neither quantized nor exported, cat:"),
        (lambda net, x: (net.dense(x), x), "neither quantized nor exported"),
        (lambda net, x: net.gelu(net.dense(x)), "a layer that can be neither quantized nor exported, GELU"),
        (lambda net, x: net.dense(net.dense(x)), "runs a layer twice, Linear"),
        (lambda net, x: net.dense(x) if len(x) else x, "as torch.fx says"),
        (lambda net, x: [net.dense(x), net.relu(net.other(x)) + x][0], "does not use"),
    ],
)
def test_what_no_layer_does_is_refused(forward, message):
    with pytest.raises(InputError, match=message):
        layer_graph(Wrong(forward))


def test_a_layer_without_weights_may_run_twice():
    net = Wrong(lambda net, x: net.relu(net.other(net.relu(net.dense(x)))))
    graph = layer_graph(net)
    assert len(graph) == len(set(graph)) == 4
    x = torch.randn(2, 4)
    assert torch.equal(graph(x), net(x))


@pytest.mark.parametrize(
    "layer",
    [
        *(nn.Conv2d(1, 2, 3, padding="same"), nn.Conv2d(1, 2, 3, padding=1, padding_mode="reflect")),
        *(nn.BatchNorm2d(1, affine=False), nn.AvgPool2d(2, ceil_mode=True), nn.AdaptiveAvgPool2d(2)),
    ],
)
def test_settings_that_integers_or_onnx_lack_are_refused(layer):
    with pytest.raises(InputError, match="can be neither quantized nor exported"):
        layer_graph(nn.Sequential(layer))


def test_a_condition_on_sizes_that_changes_the_result_is_refused():
    net = Wrong(lambda net, x: net.relu(net.dense(x)) if x.shape[-1] > 3 else net.dense(x))
    with pytest.raises(InputError, match="computes something else"):
        check_same(layer_graph(net), net, torch.zeros(5, 4))
