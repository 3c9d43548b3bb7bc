"""Pruning of single weights and of whole filters."""

import pytest
import pytorch_lightning as pl
import torch
from classifiers import BASELINE, NETS, classifier, clips, fit, logits, observed, prune_at_once, save

from asc import InputError, SceneClassifier
from asc.compress import QAT, Prune, PruneFilters
from asc.compress.prune import weight_tensors
from asc.compress.prune_filters import strongest_filters


class Masks(pl.Callback):
    """Stores which weights are zero at the end of each epoch."""

    def __init__(self):
        self.epochs = []

    def on_train_epoch_end(self, trainer, model):
        self.epochs.append([weight.detach() == 0 for weight in weight_tensors(model.net)])


# Single weights


def test_schedule_by_hand():
    phase = Prune(ramp_epochs=4)
    amounts = [phase.amount_at(epoch, 10, 0.5) for epoch in range(6)]
    assert amounts == pytest.approx([0, 0.2890625, 0.4375, 0.4921875, 0.5, 0.5])  # 0.5 (1 - (1 - t)^3)
    phase = Prune(amount=0.8, initial_amount=0.3, ramp_epochs=2)
    assert [phase.amount_at(epoch, 10, 0.8) for epoch in range(3)] == pytest.approx([0.3, 0.7375, 0.8])
    assert [Prune(schedule="constant").amount_at(epoch, 10, 0.7) for epoch in range(2)] == [0.7, 0.7]
    assert Prune().amount_at(0, 1, 0.5) == 0.5
    assert [Prune().amount_at(epoch, 4, 0.5) for epoch in range(4)] == pytest.approx([0, 0.4375, 0.5, 0.5])


@pytest.mark.parametrize("net", NETS.values(), ids=NETS)
def test_each_layer_loses_its_fraction_and_never_gets_it_back(net):
    masks, phase = Masks(), Prune(amount=0.5, ramp_epochs=2)
    model = fit(phase.begin(classifier(net)), phase, masks, epochs=4)
    for epoch, layers in enumerate(masks.epochs):
        for mask in layers:
            assert mask.sum() == round(phase.amount_at(epoch, 4, 0.5) * mask.numel())
    for earlier, later in zip(masks.epochs, masks.epochs[1:], strict=False):
        assert all((after | ~before).all() for before, after in zip(earlier, later, strict=True))
    pruned = phase.finish(model)
    assert pruned.stage == "pruned"
    assert all((weight == 0).sum() == round(weight.numel() / 2) for weight in weight_tensors(pruned.net))


def test_each_layer_may_have_an_amount_of_its_own():
    amounts, masks = [0.0, 0.25, 0.5, 0.75, 0.1], Masks()
    phase = Prune(amounts, ramp_epochs=1)
    fit(phase.begin(classifier()), phase, masks, epochs=2)
    first, last = masks.epochs
    assert not any(mask.any() for mask in first)
    for amount, mask in zip(amounts, last, strict=True):
        assert mask.sum() == round(amount * mask.numel())


def test_half_of_table_2_is_the_published_number():
    """TensorFlow's toolkit leaves 30,707 of the 60,931 values that count: half of the weights and all biases."""
    phase = Prune(amount=0.5, schedule="constant")
    cost = phase.finish(fit(phase.begin(classifier()), phase)).complexity()
    assert cost.parameters == 63_751
    assert cost.nonzero_parameters == 30_707 + 63_751 - 60_931
    assert cost.dcase2020_size_kb == pytest.approx(119.95, abs=0.005)


def test_weights_of_smallest_magnitude_become_zero():
    model = classifier()
    before = [weight.detach().clone() for weight in weight_tensors(model.net)]
    prune_at_once(model, amount=0.3)
    for weight, old in zip(weight_tensors(model.net), before, strict=True):
        threshold = old.abs().flatten().sort().values[round(0.3 * old.numel())]
        assert torch.equal(weight, torch.where(old.abs() < threshold, 0, old))


def test_global_scope_ranks_all_weights_together():
    model = classifier()
    before = torch.cat([weight.detach().flatten() for weight in weight_tensors(model.net)])
    prune_at_once(model, amount=0.5, scope="global")
    after = torch.cat([weight.detach().flatten() for weight in weight_tensors(model.net)])
    assert (after == 0).sum() == round(0.5 * len(after))
    assert before[after == 0].abs().max() <= after[after != 0].abs().min()


# Filters


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize(
    ("net", "filters"),
    [({}, [24, 48, 96, 192]), ({"pooling": "mean_std"}, [24, 48, 96, 192]), (BASELINE, [24, 48])],
    ids=["cnn", "mean_std", "baseline"],
)
def test_smaller_network_computes_what_the_remaining_filters_did(net, filters):
    """The channels of the removed filters, taken out of the old network by zeros where the next layer reads them."""
    model = classifier(net)
    kept = strongest_filters(model.net, 0.25)
    smaller = PruneFilters(0.25).begin(model)
    assert smaller.hparams["net"]["filters"] == filters
    assert smaller.stage == "pruned"
    readers = list(weight_tensors(model.net))[1:]
    with torch.no_grad():
        for indices, reader in zip(kept, readers, strict=False):
            values = reader.shape[1] // (4 * len(indices) // 3)  # columns of a channel: several after flattening
            columns = torch.cat([indices * values + value for value in range(values)])
            removed = torch.ones(reader.shape[1], dtype=torch.bool)
            removed[columns] = False
            reader[:, removed] = 0
    x = clips(model)
    torch.testing.assert_close(logits(smaller, x), logits(model, x), rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("device")
def test_filters_of_smallest_norm_are_removed():
    model = classifier()
    norms = [weight.detach().abs().flatten(1).sum(1) for weight in weight_tensors(model.net)][:4]
    smaller = PruneFilters(0.5).begin(model)
    for norm, indices in zip(norms, strongest_filters(model.net, 0.5), strict=True):
        removed = torch.ones(len(norm), dtype=torch.bool)
        removed[indices] = False
        assert len(indices) == len(norm) / 2
        assert norm[removed].max() <= norm[indices].min()
    n1, n2, n3, n4 = 16, 32, 64, 128
    counted = 10 * n1 + (9 * n1 + 1) * n2 + (n2 + 1) * n3 + (n3 + 1) * n4 + (n4 + 1) * 3
    assert smaller.complexity().dcase2020_size_kb == pytest.approx(counted * 4 / 1024)
    assert smaller.complexity().macs < 0.3 * model.complexity().macs


def test_one_filter_stays():
    smaller = PruneFilters(0.999).begin(classifier(BASELINE | {"filters": [4, 8]}))
    assert smaller.hparams["net"]["filters"] == [1, 1]


# Both


def test_pruned_networks_load_and_are_quantized(tmp_path):
    for phase in (PruneFilters(0.5), Prune(0.5, schedule="constant")):
        pruned = phase.finish(fit(phase.begin(classifier()), phase))
        loaded = SceneClassifier.load_from_checkpoint(save(pruned, tmp_path / "pruned.ckpt"))
        assert loaded.stage == "pruned"
        x = clips(pruned)
        assert torch.equal(logits(loaded, x), logits(pruned, x))
        assert QAT().finish(QAT().begin(loaded)).complexity().macs < 1.1 * loaded.complexity().macs


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        *(({"amount": amount}, "amount") for amount in (1, -0.1, "half", None)),
        ({"amount": [0.5, 1.5]}, r"amount\[1\]"),
        ({"amount": 0.5, "initial_amount": 0.6}, "initial_amount"),
        ({"schedule": "cosine"}, "schedule"),
        ({"ramp_epochs": -1}, "ramp_epochs"),
        ({"amount": [0.5, 0.5], "scope": "global"}, "scope"),
    ],
)
def test_invalid_settings_are_rejected(settings, name):
    with pytest.raises(InputError, match=f"phase.{name}"):
        Prune(**settings)


def test_what_cannot_be_pruned_is_rejected():
    with pytest.raises(InputError, match="invalid phase.ramp_epochs=2: expected less than trainer.max_epochs=2"):
        fit(classifier(), Prune(ramp_epochs=2), epochs=2)
    with pytest.raises(InputError, match="5 layers"):
        Prune([0.5, 0.5]).begin(classifier())
    with pytest.raises(InputError, match="cannot build FixedNet with net.filters"):
        PruneFilters().begin(classifier({"_target_": "tiny.FixedNet"}))
    fake = observed(classifier(), QAT())
    for model in (fake, QAT().finish(fake)):
        for phase in (Prune(), PruneFilters(), QAT()):
            with pytest.raises(InputError, match="already quantized"):
                phase.begin(model)
