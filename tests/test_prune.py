import pytest
import pytorch_lightning as pl
import torch
from classifiers import NETS, classifier, fit, prune_at_once, save
from torch import nn

from asc import InputError, SceneClassifier
from asc.compress import QAT, Prune, PruneFilters
from asc.quantization.quantize import kernels


class Masks(pl.Callback):
    """Keep which weights are zero at the end of each epoch."""

    def __init__(self):
        self.epochs = []

    def on_train_epoch_end(self, trainer, model):
        layers = (layer for layer in model.net.modules() if isinstance(layer, nn.Conv2d | nn.Linear))
        self.epochs.append([layer.weight.detach() == 0 for layer in layers])


def test_the_schedule_by_hand():
    phase = Prune(amount=0.5, ramp_epochs=4)
    shares = [phase.amount_at(epoch, 10) for epoch in range(6)]
    assert shares == pytest.approx([0, 0.2890625, 0.4375, 0.4921875, 0.5, 0.5])  # 0.5 (1 - (1 - t)^3)
    phase = Prune(amount=0.8, initial_amount=0.3, ramp_epochs=2)
    assert [phase.amount_at(epoch, 10) for epoch in range(3)] == pytest.approx([0.3, 0.7375, 0.8])
    assert [Prune(0.7, schedule="constant").amount_at(epoch, 10) for epoch in range(2)] == [0.7, 0.7]
    assert Prune(0.5).amount_at(0, 1) == 0.5
    assert [Prune(0.5).amount_at(epoch, 4) for epoch in range(4)] == pytest.approx([0, 0.4375, 0.5, 0.5])


@pytest.mark.parametrize("net", NETS.values(), ids=NETS)
def test_each_kernel_loses_its_share_and_never_gets_it_back(net):
    model, masks, phase = classifier(net), Masks(), Prune(amount=0.5, ramp_epochs=2)
    fit(phase.begin(model), phase, masks, epochs=4)
    for epoch, layers in enumerate(masks.epochs):
        for mask in layers:
            assert mask.sum() == round(phase.amount_at(epoch, 4) * mask.numel())
    for earlier, later in zip(masks.epochs, masks.epochs[1:], strict=False):
        assert all((after | ~before).all() for before, after in zip(earlier, later, strict=True))
    pruned = phase.finish(model)
    assert pruned.stage == "pruned"
    assert not any("weight_orig" in key or "weight_mask" in key for key in pruned.state_dict())
    assert all((kernel == 0).sum() == round(kernel.numel() / 2) for kernel in kernels(pruned.net))


def test_each_kernel_may_have_an_amount_of_its_own():
    amounts, masks = [0.0, 0.25, 0.5, 0.75, 0.1], Masks()
    phase = Prune(amounts, ramp_epochs=1)
    model = classifier()
    fit(phase.begin(model), phase, masks, epochs=2)
    first, last = masks.epochs
    assert not any(mask.any() for mask in first)
    assert [mask.sum() for mask in last] == [
        round(share * mask.numel()) for share, mask in zip(amounts, last, strict=True)
    ]


def test_half_of_table_2_is_the_published_number():
    """TensorFlow's toolkit leaves 30,707 of the 60,931 values that count: half of the kernels and all biases."""
    model = classifier()
    phase = Prune(amount=0.5, schedule="constant")
    fit(phase.begin(model), phase)
    cost = phase.finish(model).complexity()
    assert cost.parameters == 63_751
    assert cost.nonzero_parameters == 30_707 + 63_751 - 60_931
    assert cost.dcase2020_size_kb == pytest.approx(119.95, abs=0.005)


def test_the_smallest_go_first():
    model = classifier()
    before = [kernel.detach().clone() for kernel in kernels(model.net)]
    prune_at_once(model, amount=0.3)
    for kernel, old in zip(kernels(model.net), before, strict=True):
        threshold = old.abs().flatten().sort().values[round(0.3 * old.numel())]
        assert torch.equal(kernel, torch.where(old.abs() < threshold, 0, old))


def test_the_global_scope_ranks_all_kernels_together():
    model = classifier()
    before = torch.cat([kernel.detach().flatten() for kernel in kernels(model.net)])
    prune_at_once(model, amount=0.5, scope="global")
    after = torch.cat([kernel.detach().flatten() for kernel in kernels(model.net)])
    assert (after == 0).sum() == round(0.5 * len(after))
    assert before[after == 0].abs().max() <= after[after != 0].abs().min()
    shares = [(kernel == 0).float().mean().item() for kernel in kernels(model.net)]
    assert max(shares) - min(shares) > 0.1


def test_smaller_and_pruned_networks_load_and_are_quantized(tmp_path):
    wave = torch.randn(3, 4000) * 0.1
    for phase in (PruneFilters(0.5), Prune(0.5, schedule="constant")):
        model = phase.begin(classifier())
        pruned = phase.finish(fit(model, phase))
        loaded = SceneClassifier.load_from_checkpoint(save(pruned, tmp_path / "pruned.ckpt"))
        assert loaded.stage == "pruned"
        with torch.inference_mode():
            assert torch.equal(loaded(wave), pruned(wave))
        assert QAT().finish(QAT().begin(loaded)).complexity().macs < 1.1 * loaded.complexity().macs


def test_what_cannot_be_pruned_is_refused(tmp_path):
    for amount in (1, 1.0, -0.1, 1.5, "half", None):
        for phase in (Prune, PruneFilters):
            with pytest.raises(InputError, match=f"phase.amount={'null' if amount is None else amount}: expected"):
                phase(amount=amount)
    with pytest.raises(InputError, match="phase.initial_amount=0.6: expected at most phase.amount=0.5"):
        Prune(amount=0.5, initial_amount=0.6)
    for settings in ({"schedule": "cosine"}, {"scope": "net"}, {"ramp_epochs": -1}):
        with pytest.raises(InputError, match=f"phase.{next(iter(settings))}"):
            Prune(**settings)
    with pytest.raises(InputError, match=r"phase.ramp_epochs=2 is not less than trainer.max_epochs=2"):
        fit(classifier(), Prune(ramp_epochs=2), epochs=2)
    with pytest.raises(InputError, match=r"list of 2, but PhamCNN has 5 kernels"):
        Prune([0.5, 0.5]).begin(classifier())
    with pytest.raises(InputError, match=r"phase.amount\[1\]=1.5: expected less than 1"):
        Prune([0.5, 1.5])
    with pytest.raises(InputError, match=r"phase.scope=global"):
        Prune([0.5, 0.5], scope="global")
    fake = QAT().begin(classifier())
    for model in (fake, QAT().finish(fake)):
        for phase in (Prune(), PruneFilters()):
            with pytest.raises(InputError, match="quantized already"):
                phase.begin(model)
