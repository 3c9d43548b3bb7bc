"""8 bits: fake quantization, its training and conversion, and the integers of each engine."""

import copy
from itertools import product

import pytest
import pytorch_lightning as pl
import torch
from classifiers import HERE, NETS, classifier, clips, fit, logits, observed, save
from torch.ao.nn import quantized as nnq
from torch.ao.nn.intrinsic.quantized import ConvReLU2d

from asc import InputError, SceneClassifier
from asc.compress import QAT
from asc.compress.prune import weight_tensors
from asc.quantization.convert import PairedConvReLU2d, running_on, safe_weight_bits

# Engines


@pytest.mark.parametrize("engine", HERE)
def test_paired_columns_give_the_integers_of_torch(engine):
    for kernel, width, batch, bias in product([(3, 1), (3, 2), (3, 3), (1, 5)], [12, 13, 14], [1, 3], [True, False]):
        weight, shift = torch.randn(5, 1, *kernel), torch.randn(5) if bias else None
        zeros = torch.zeros(5, dtype=torch.long)
        rounded = torch.quantize_per_channel(weight, weight.abs().amax((1, 2, 3)).double() / 63, zeros, 0, torch.qint8)
        x = torch.quantize_per_tensor(torch.randn(batch, 1, 6, width), 0.03, 100, torch.quint8)
        outputs = []
        for kind in (ConvReLU2d, PairedConvReLU2d):
            with running_on(engine):
                layer = kind(1, 5, kernel)
                layer.set_weight_bias(rounded, shift)
            layer.scale, layer.zero_point = 0.02, 7
            outputs.append(layer(x).int_repr())
        assert torch.equal(*outputs)
        assert outputs[0].unique().numel() > 20


@pytest.mark.parametrize("engine", HERE)
def test_safe_weight_bits_add_up_exactly(engine):
    """The largest products that there can be: sums in 16 bits would overflow, and the engine be silently wrong."""
    largest = 2 ** (safe_weight_bits(engine) - 1)
    ones, zeros = torch.ones(8, dtype=torch.double), torch.zeros(8, dtype=torch.long)
    for value in (largest - 1, -largest):
        weight = torch.quantize_per_channel(torch.full((8, 16, 3, 3), float(value)), ones, zeros, 0, torch.qint8)
        with running_on(engine):
            conv = nnq.Conv2d(16, 8, 3)
            conv.set_weight_bias(weight, torch.zeros(8))
        conv.scale, conv.zero_point = 16 * 9 * 255 * largest / 100, 128
        x = torch.quantize_per_tensor(torch.full((1, 16, 5, 5), 255.0), 1.0, 0, torch.quint8)
        expected = 128 + round(100 * value / largest)
        assert conv(x).int_repr().unique().tolist() == [expected]


@pytest.mark.parametrize("fold", [True, False], ids=["folded", "norms"])
@pytest.mark.parametrize("net", NETS.values(), ids=NETS)
@pytest.mark.parametrize("engine", HERE)
def test_integers_compute_what_fine_tuning_saw(engine, net, fold):
    phase, model = QAT(engine, fold), classifier(net)
    fake = observed(model, phase)
    int8 = phase.finish(fake)
    x = clips(fake)
    step = next(layer for layer in reversed(int8.net) if isinstance(layer, nnq.Linear)).scale
    # roundings of the same sums in another order
    assert (logits(int8, x) - logits(fake, x)).abs().max().item() <= 2.01 * step
    assert (logits(fake, x) - logits(model, x)).square().mean().sqrt() < 0.1 * logits(model, x).std()


@pytest.mark.parametrize("engine", HERE)
def test_weights_use_their_bits_symmetrically_by_channel(engine):
    model = QAT(engine).finish(observed(classifier(), QAT(engine)))
    bits = safe_weight_bits(engine)
    layers = [layer for layer in model.net.modules() if isinstance(layer, nnq.Conv2d | nnq.Linear)]
    assert len(layers) == 5
    for layer in layers:
        weight = layer.weight()
        assert weight.qscheme() in (torch.per_channel_affine, torch.per_channel_symmetric)
        assert weight.q_per_channel_zero_points().count_nonzero() == 0
        largest = weight.int_repr().int().flatten(1).abs().amax(1)
        assert largest.max() <= 2 ** (bits - 1)
        used = largest[largest > 0]  # the filter of the constant channel is all zeros
        assert used.min() >= 2 ** (bits - 1) - 1


# Structure and size


def test_folded_network_is_convolutions_pools_and_a_dense_layer():
    int8 = QAT().finish(observed(classifier(), QAT()))
    kinds = {type(layer).__name__ for layer in int8.net}
    assert kinds == {
        *("ConstantPad", "Quantize", "PairedConvReLU2d", "Identity", "MaxPool2d", "MaxPoolOverTime", "Flatten"),
        *("Linear", "DeQuantize"),
    }
    cost = int8.complexity()
    weights, biases = 288 + 9 + 64 * 33 * 9 + 8192 + 32768 + 768, 33 + 64 + 128 + 256 + 3
    assert cost.parameters == weights + biases + 1 == 61_518  # 1: the constant of the padding
    assert cost.size_kb <= (weights + 4 * biases + 4) / 1024
    assert cost.nonzero_parameters > 0.97 * cost.parameters
    frames = 4000 // 128 + 1
    assert cost.macs == 9 * 33 * 32 * frames + 64 * 33 * 9 * 16 * 8 + 64 * 128 * 8 * 4 + 128 * 256 * 4 * 1 + 768


def test_remaining_batch_norms_count_but_not_officially():
    phase = QAT(fold=False)
    cost = phase.finish(observed(classifier(), phase)).complexity()
    assert cost.parameters == 63_751
    assert cost.size_kb - cost.dcase2020_size_kb == pytest.approx(4 * (63_751 - 60_931) / 1024)
    assert cost.dcase2020_size_kb <= (60_448 + 4 * 483) / 1024


# Training


def test_ranges_are_observed_in_training_alone():
    model = observed(classifier(), QAT())
    x = clips(model)
    first = logits(model, x)
    logits(model, 100 * x)
    assert torch.equal(first, logits(model, x))
    model.net.train()(100 * x)
    assert not torch.equal(first, logits(model.eval(), x))


@pytest.mark.parametrize("fold", [True, False])
def test_zeros_survive_fine_tuning_and_conversion(fold):
    model = classifier()
    with torch.no_grad():
        for weight in weight_tensors(model.net):
            weight[torch.rand_like(weight) < 0.5] = 0
    before = [weight.detach().clone() for weight in weight_tensors(model.net)]
    phase = QAT(fold=fold)
    fake = fit(phase.begin(model), phase, epochs=2)
    layers = [layer for layer in phase.finish(fake).net if isinstance(layer, nnq.Conv2d | nnq.Linear)]
    for old, layer in zip(before, layers, strict=True):
        integers = layer.weight().int_repr()[: len(old), : old.shape[1]]  # beside it the constant channel
        assert (integers[old == 0] == 0).all()
        assert 0.4 < (old == 0).float().mean() < 0.6
    after = weight_tensors(fake.net)
    assert any((new[: len(old), : old.shape[1]] != old).any() for new, old in zip(after, before, strict=True))


class Trace(pl.Callback):
    """Stores the network's state at the end of each epoch."""

    def __init__(self):
        self.states = []

    def on_train_epoch_end(self, trainer, model):
        self.states.append({key: value.clone() for key, value in model.net.state_dict().items()})

    def changes(self, part: str) -> list[bool]:
        """Whether anything whose name ends so changed from one epoch to the next."""
        keys = [key for key in self.states[0] if key.endswith(part)]
        pairs = zip(self.states, self.states[1:], strict=False)
        return [any(not torch.equal(old[key], new[key]) for key in keys) for old, new in pairs]


def test_ranges_and_statistics_freeze_before_the_end():
    trace, phase = Trace(), QAT(fold=False, freeze_observer_epochs=1, freeze_bn_epochs=2)
    fit(phase.begin(classifier()), phase, trace, epochs=4)
    assert trace.changes("max_val") == [True, True, False]
    assert trace.changes("running_mean") == [True, False, False]
    assert trace.changes("weight") == [True, True, True]


# Checkpoints


@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize("net", [*NETS.values(), None], ids=[*NETS, "unfoldable"])
def test_every_stage_loads_with_the_same_logits_bit_for_bit(net, fold, tmp_path):
    model = classifier(net)
    if net is None:
        with torch.no_grad():
            model.net.blocks[1][3].weight[2] = -1
    phase = QAT(fold=fold)
    fake = fit(phase.begin(model), phase)
    if fold:
        assert bool(fake.hparams["quantization"]["unfoldable"]) == (net is None)
    x = clips(model)
    for stage in (model, fake, phase.finish(fake)):
        loaded = SceneClassifier.load_from_checkpoint(save(stage, tmp_path / f"{stage.stage}.ckpt"))
        assert loaded.stage == stage.stage
        assert not loaded.training
        assert torch.equal(logits(loaded, x), logits(stage, x))
        assert loaded.complexity() == stage.complexity()
    assert (tmp_path / "int8.ckpt").stat().st_size < 0.5 * (tmp_path / "float.ckpt").stat().st_size
    if fold and net == {}:  # the first convolution alone is paired, in copies too
        for same in (loaded, copy.deepcopy(loaded)):
            layers = [layer for layer in same.net if isinstance(layer, ConvReLU2d)]
            assert [layer.paired is not None for layer in layers] == [True, False, False, False]


# Errors


def test_invalid_settings_are_rejected(monkeypatch):
    for settings in ({"engine": "tpu"}, {"weight_bits": 9}, {"fold": "maybe"}):
        with pytest.raises(InputError, match=f"invalid phase.{next(iter(settings))}="):
            QAT(**settings)
    with pytest.raises(InputError, match="phase.freeze_observer_epochs=2"):
        fit(QAT().begin(classifier()), QAT(freeze_observer_epochs=2), epochs=2)
    monkeypatch.setattr(type(torch.backends.quantized), "supported_engines", ["none", "qnnpack"])
    with pytest.raises(InputError, match="invalid phase.engine=x86: expected qnnpack"):
        QAT(engine="x86")


def test_8_bit_network_rejects_too_few_frames():
    int8 = QAT().finish(observed(classifier(), QAT()))
    with pytest.raises(InputError, match="8-bit network .*use longer clips"):
        int8(torch.zeros(1, int8.min_samples))
