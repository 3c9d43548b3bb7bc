"""Weights averaged over the last epochs."""

import pytest
import pytorch_lightning as pl
import torch
from classifiers import classifier

from asc import InputError
from asc.training.averaging import AverageLastEpochs


class Weights(pl.Callback):
    """Keep the dense layer's weights at the end of each epoch."""

    def __init__(self):
        self.epochs: list[torch.Tensor] = []

    def on_train_epoch_end(self, trainer, model):
        self.epochs.append(model.net.dense.weight.detach().clone())


class Saved(Weights):
    """Keep what a checkpoint of each epoch would hold."""

    def on_train_epoch_end(self, trainer, model):
        state = trainer._checkpoint_connector.dump_checkpoint()["state_dict"]
        self.epochs.append(state["net.dense.weight"].clone())


@pytest.mark.parametrize(("fraction", "averaged"), [(0.4, 2), (1.0, 5), (0.0, 1)])
def test_the_result_is_the_mean_of_the_last_epochs(fraction, averaged):
    model, weights, saved = classifier(), Weights(), Saved()
    batches = [[torch.randn(4, 1, 32, 32), torch.tensor([0, 1, 2, 0])]] * 2
    callbacks = [weights, AverageLastEpochs(fraction), saved]
    trainer = pl.Trainer(max_epochs=5, accelerator="cpu", callbacks=callbacks, logger=False, enable_checkpointing=False)
    trainer.fit(model.train(), torch.utils.data.DataLoader(batches, batch_size=None))
    expected = torch.stack(weights.epochs[-averaged:]).mean(0)
    torch.testing.assert_close(model.net.dense.weight.detach(), expected)
    torch.testing.assert_close(saved.epochs[-1], expected)
    first = 5 - averaged
    for epoch in range(first):  # until it begins, checkpoints hold the weights as they are
        assert torch.equal(saved.epochs[epoch], weights.epochs[epoch])
    assert not torch.equal(weights.epochs[-1], weights.epochs[-2])


def test_a_fraction_is_one():
    with pytest.raises(InputError, match="invalid callbacks.average.fraction=1.5"):
        AverageLastEpochs(1.5)
