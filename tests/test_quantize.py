import pytest
import pytorch_lightning as pl
import torch
from tiny import classifier, save
from torch import nn
from torch.ao.nn import quantized as nnq

from asc import InputError, SceneClassifier
from asc import quantize as subject
from asc.rewrite.quantize import ENGINES, QAT, kernels, running_on, safe_weight_bits

BASELINE = {"_target_": "asc.nets.Dcase2020Baseline", "n_bins": 32}
NETS = {"cnn": {}, "baseline": BASELINE}
HERE = [engine for engine in ENGINES if engine in torch.backends.quantized.supported_engines]


def clips(model: SceneClassifier, count: int = 8) -> torch.Tensor:
    """Features of noises of different loudness."""
    wave = torch.randn(count, model.clip_samples) * torch.logspace(-3, 0, count).unsqueeze(1)
    with torch.inference_mode():
        return model.frontend(wave)


def observed(model: SceneClassifier, phase: QAT) -> SceneClassifier:
    """The classifier with fake quantization that has seen some clips, its batch norms still as they were."""
    model = phase.begin(model)
    for layer in model.net.train().modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eval()
    with torch.no_grad():
        for _ in range(3):
            model.net(clips(model))
    return model.eval()


def fit(model: SceneClassifier, *callbacks: pl.Callback, epochs: int = 1) -> SceneClassifier:
    """Fine-tune it on noise for a few steps."""
    batches = [[clips(model).clone(), torch.randint(3, (8,))] for _ in range(2)]
    loader = torch.utils.data.DataLoader(batches, batch_size=None)
    trainer = pl.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=list(callbacks),
    )  # fmt: skip
    trainer.fit(model.train(), loader)
    return model.eval()


@pytest.mark.parametrize("fold", [True, False], ids=["folded", "norms"])
@pytest.mark.parametrize("net", NETS.values(), ids=NETS)
@pytest.mark.parametrize("engine", HERE)
def test_the_integers_compute_what_fine_tuning_saw(engine, net, fold):
    phase = QAT(engine, fold)
    fake = observed(classifier(net), phase)
    int8 = phase.finish(fake)
    assert int8.stage == "int8"
    x = clips(fake)
    with torch.inference_mode():
        step = next(layer for layer in reversed(int8.net) if isinstance(layer, nnq.Linear)).scale
        difference = (int8.net(x) - fake.net(x)).abs().max().item()
    assert difference <= 2.01 * step  # roundings of the same sums in another order


@pytest.mark.parametrize("engine", HERE)
def test_fake_quantization_is_near_the_float_network(engine):
    model = classifier()
    fake = observed(model, QAT(engine))
    x = clips(model)
    with torch.inference_mode():
        error = (fake.net(x) - model.net(x)).square().mean().sqrt()
        assert error < 0.1 * model.net(x).std()


@pytest.mark.parametrize("engine", HERE)
def test_every_engine_adds_up_exactly_with_the_bits_it_gets(engine):
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


@pytest.mark.parametrize("engine", HERE)
def test_kernels_use_their_bits_symmetrically_by_channel(engine):
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
        used = largest[largest > 0]  # the constant map's filter is all zeros
        assert used.min() >= 2 ** (bits - 1) - 1


def test_a_folded_network_is_convolutions_pools_and_a_dense_layer():
    model = QAT().finish(observed(classifier(), QAT()))
    kinds = {type(layer).__name__ for layer in model.net}
    assert kinds == {
        *("Border", "Quantize", "ConvReLU2d", "Identity", "MaxPool2d", "PoolOverTime", "Flatten", "Linear"),
        "DeQuantize",
    }


def test_sizes_of_an_8_bit_network_by_hand():
    cost = QAT().finish(observed(classifier(), QAT())).complexity()
    kernels, biases = 288 + 9 + 64 * 33 * 9 + 8192 + 32768 + 768, 33 + 64 + 128 + 256 + 3
    assert cost.parameters == kernels + biases + 1 == 61_518  # 1: the border's value
    assert cost.size_kb <= (kernels + 4 * biases + 4) / 1024
    assert cost.nonzero_parameters > 0.97 * cost.parameters
    frames = 4000 // 128 + 1
    macs = 9 * 33 * 32 * frames + 64 * 33 * 9 * 16 * 8 + 64 * 128 * 8 * 4 + 128 * 256 * 4 * 1 + 768
    assert frames == 32
    assert cost.macs == macs


def test_batch_norms_that_are_kept_count_but_not_officially():
    phase = QAT(fold=False)
    cost = phase.finish(observed(classifier(), phase)).complexity()
    assert cost.parameters == 63_751
    assert cost.size_kb - cost.dcase2020_size_kb == pytest.approx(4 * (63_751 - 60_931) / 1024)
    assert cost.dcase2020_size_kb <= (60_448 + 4 * 483) / 1024


def test_ranges_are_observed_in_training_alone():
    model = observed(classifier(), QAT())
    with torch.inference_mode():
        before = model.net(clips(model, 4))
        model.net(100 * clips(model))
        assert not torch.equal(before, model.net(clips(model, 4)))  # other noises
        x = clips(model)
        first = model.net(x)
        model.net(100 * x)
        assert torch.equal(first, model.net(x))
    model.net.train()(100 * clips(model))
    assert not torch.equal(first, model.eval().net(x))


@pytest.mark.parametrize("net", NETS.values(), ids=NETS)
@pytest.mark.parametrize("fold", [True, False])
def test_zeros_survive_fine_tuning_and_conversion(net, fold):
    model = classifier(net)
    with torch.no_grad():
        for kernel in kernels(model.net):
            kernel[torch.rand_like(kernel) < 0.5] = 0
    masks = [kernel == 0 for kernel in kernels(model.net)]
    before = [kernel.clone() for kernel in kernels(model.net)]
    phase = QAT(fold=fold)
    fake = fit(phase.begin(model), phase, epochs=2)
    int8 = phase.finish(fake)
    layers = [layer for layer in int8.net if isinstance(layer, nnq.Conv2d | nnq.Linear)]
    for mask, layer in zip(masks, layers, strict=True):
        integers = layer.weight().int_repr()[: mask.shape[0], : mask.shape[1]]  # beside it the constant map
        assert (integers[mask] == 0).all()
        assert 0.4 < mask.float().mean() < 0.6
    after = kernels(fake.net)
    assert any((new[: len(old), : old.shape[1]] != old).any() for new, old in zip(after, before, strict=True))


class Trace(pl.Callback):
    """Keep what the network's state is at the end of each epoch."""

    def __init__(self):
        self.states = []

    def on_train_epoch_end(self, trainer, model):
        self.states.append({key: value.clone() for key, value in model.net.state_dict().items()})


def changes(trace: Trace, part: str) -> list[bool]:
    """Whether anything whose name ends so changed from one epoch to the next."""
    keys = [key for key in trace.states[0] if key.endswith(part)]
    assert keys
    pairs = zip(trace.states, trace.states[1:], strict=False)
    return [any(not torch.equal(old[key], new[key]) for key in keys) for old, new in pairs]


@pytest.mark.parametrize("net", NETS.values(), ids=NETS)
def test_ranges_and_statistics_settle_before_the_end(net):
    trace, phase = Trace(), QAT(fold=False, frozen_observers=1, frozen_norms=2)
    fit(phase.begin(classifier(net)), phase, trace, epochs=4)
    assert changes(trace, "max_val") == [True, True, False]
    assert changes(trace, "running_mean") == [True, False, False]
    assert changes(trace, "weight") == [True, True, True]


@pytest.mark.parametrize("net", NETS.values(), ids=NETS)
@pytest.mark.parametrize("fold", [True, False])
def test_every_stage_loads_with_the_same_logits_bit_for_bit(net, fold, tmp_path):
    model = classifier(net)
    model.net.requires_grad_(True)
    phase = QAT(fold=fold)
    fake = fit(phase.begin(model), phase)
    wave = torch.randn(3, model.clip_samples) * 0.1
    for stage in (model, fake, phase.finish(fake)):
        loaded = SceneClassifier.load_from_checkpoint(save(stage, tmp_path / f"{stage.stage}.ckpt"))
        assert loaded.stage == stage.stage
        assert not loaded.training
        with torch.inference_mode():
            assert torch.equal(loaded(wave), stage(wave))
        assert loaded.complexity() == stage.complexity()
    assert (tmp_path / "int8.ckpt").stat().st_size < 0.5 * (tmp_path / "float.ckpt").stat().st_size


def test_a_network_that_keeps_a_batch_norm_loads_too(tmp_path):
    model = classifier()
    with torch.no_grad():
        model.net.blocks[1][3].weight[2] = -1
    fake = observed(model, QAT())
    assert fake.hparams["quantization"]["lasting"]
    int8 = QAT().finish(fake)
    loaded = SceneClassifier.load_from_checkpoint(save(int8, tmp_path / "int8.ckpt"))
    x = clips(model)
    with torch.inference_mode():
        assert torch.equal(loaded.net(x), int8.net(x))
        assert (int8.net(x) - model.net(x)).square().mean().sqrt() < 0.2 * model.net(x).std()


def test_some_epoch_must_observe():
    with pytest.raises(InputError, match=r"phase.frozen_observers=2 leaves none of trainer.max_epochs=2"):
        fit(QAT().begin(classifier()), QAT(frozen_observers=2), epochs=2)


def test_what_cannot_be_quantized_is_refused(monkeypatch):
    with pytest.raises(InputError, match=r"phase.engine=tpu is not known: choose onednn, x86, qnnpack"):
        QAT(engine="tpu")
    with pytest.raises(InputError, match=r"phase.weight_bits=9"):
        QAT(weight_bits=9)
    with pytest.raises(InputError, match=r"phase.fold=maybe"):
        QAT(fold="maybe")
    monkeypatch.setattr(subject, "ENGINES", ("qnnpack", "hexagon"))
    with pytest.raises(InputError, match=r"phase.engine=hexagon is not on this machine: choose qnnpack"):
        QAT(engine="hexagon")
    monkeypatch.undo()
    int8 = QAT().finish(observed(classifier(), QAT()))
    with pytest.raises(InputError, match="quantized already"):
        QAT().begin(int8)
    with pytest.raises(InputError, match="another engine, weight_bits"):
        QAT(engine="qnnpack").begin(observed(classifier(), QAT(engine="onednn")))
