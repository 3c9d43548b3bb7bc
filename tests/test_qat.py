import pytest
import pytorch_lightning as pl
import torch
from classifiers import NETS, classifier, clips, fit, observed, save
from torch.ao.nn import quantized as nnq

from asc import InputError, SceneClassifier
from asc.compress import QAT
from asc.quantization.quantize import kernels


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
    trace, phase = Trace(), QAT(fold=False, freeze_observer_epochs=1, freeze_bn_epochs=2)
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
    assert fake.hparams["quantization"]["unfoldable"]
    int8 = QAT().finish(fake)
    loaded = SceneClassifier.load_from_checkpoint(save(int8, tmp_path / "int8.ckpt"))
    x = clips(model)
    with torch.inference_mode():
        assert torch.equal(loaded.net(x), int8.net(x))
        assert (int8.net(x) - model.net(x)).square().mean().sqrt() < 0.2 * model.net(x).std()


def test_some_epoch_must_observe():
    with pytest.raises(InputError, match=r"phase.freeze_observer_epochs=2 leaves none of trainer.max_epochs=2"):
        fit(QAT().begin(classifier()), QAT(freeze_observer_epochs=2), epochs=2)


def test_what_cannot_be_quantized_is_refused(monkeypatch):
    with pytest.raises(InputError, match="invalid phase.engine=tpu: expected 'onednn', 'x86' or 'qnnpack'"):
        QAT(engine="tpu")
    with pytest.raises(InputError, match="invalid phase.weight_bits=9: expected at most 8"):
        QAT(weight_bits=9)
    with pytest.raises(InputError, match="invalid phase.fold=maybe: expected true or false"):
        QAT(fold="maybe")
    monkeypatch.setattr(type(torch.backends.quantized), "supported_engines", ["none", "qnnpack"])
    with pytest.raises(InputError, match=r"invalid phase.engine=x86: this machine runs qnnpack"):
        QAT(engine="x86")
    monkeypatch.undo()
    fake = observed(classifier(), QAT())
    for model in (fake, QAT().finish(fake)):
        with pytest.raises(InputError, match="quantized already"):
            QAT().begin(model)


def test_an_8_bit_network_says_that_its_features_are_too_short(tmp_path):
    int8 = QAT().finish(observed(classifier(), QAT()))
    with pytest.raises(InputError, match="the 8-bit network cannot take features of shape .*: give longer clips"):
        int8(torch.zeros(1, int8.min_samples))
    content = torch.load(save(int8, tmp_path / "int8.ckpt"), weights_only=True)
    content["hyper_parameters"]["frontend"]["frames"] = 2
    torch.save(content, tmp_path / "int8.ckpt")
    with pytest.raises(InputError, match="int8.ckpt cannot be used .*use another checkpoint"):
        SceneClassifier.load_from_checkpoint(tmp_path / "int8.ckpt")
