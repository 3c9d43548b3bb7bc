"""SceneClassifier: frontend and network in one LightningModule, with self-contained checkpoints."""

import copy
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeInt
from torch import Tensor, nn
from torchmetrics import CatMetric
from torchmetrics.classification import MulticlassConfusionMatrix

from asc.audio import windows
from asc.complexity import Complexity, complexity
from asc.data.datamodule import SceneData
from asc.data.datasets import FeatureBatch, WaveBatch
from asc.errors import InputError, one_line
from asc.frontend import Frontend
from asc.loading import build, check_classes, check_finite, differing_settings, read_checkpoint
from asc.metrics import Metrics, compute_metrics
from asc.quantization.convert import convert, running_on, without_deprecation_notices
from asc.quantization.fold import fold_checked
from asc.quantization.prepare import prepare
from asc.settings import UnitInterval, checked
from asc.version import __version__

Stage = Literal["float", "pruned", "qat", "int8"]


class SceneClassifier(pl.LightningModule):
    """Acoustic scene classifier. All arguments are plain values, so a checkpoint needs no other file.

    Args:
        frontend, net, optimizer, scheduler: Hydra nodes (`_target_` and its arguments). The network also gets
            `n_classes`, the optimizer `params`, the scheduler, stepped after each batch, `optimizer` and `total_steps`.
        labels: names of the scenes, in the order of the logits.
        clip_samples: length of the training clips, at the frontend's sample rate.
        channel: channel of a file that `classify` uses: index from 0, or "mean".
        stage: "float", "pruned", "qat" (fake-quantized, during fine-tuning) or "int8".
        quantization: arguments of `asc.quantization.prepare.prepare` after the network, for the last two stages.
        backbone_lr_scale: learning rate of all layers but the network's `head`, as a fraction of the optimizer's; less
            than 1 for transfer learning (see `start_from`).
        logit_adjustment: from 0 to 1. At 1, predictions assume that all classes are equally frequent; at 0, that they
            are as frequent as in training. Training adds this times log(prior) to the logits (tau of Menon et al.,
            2021); the prior is the mean of the training targets.
    """

    @checked("")
    def __init__(
        self,
        frontend: dict[str, Any],
        net: dict[str, Any],
        optimizer: dict[str, Any],
        labels: Annotated[Sequence[str], Field(min_length=2, max_length=10_000)],
        clip_samples: Annotated[int, Field(ge=1, le=30_000_000)],  # 11 minutes at 44.1 kHz
        scheduler: dict[str, Any] | None = None,
        channel: NonNegativeInt | Literal["mean"] = 0,
        stage: Stage = "float",
        quantization: dict[str, Any] | None = None,
        backbone_lr_scale: UnitInterval = 1.0,
        logit_adjustment: UnitInterval = 0.0,
    ):
        super().__init__()
        labels = list(labels)
        if len(set(labels)) < len(labels):
            raise InputError(f"invalid labels={labels}: expected each label once")
        if (stage in ("qat", "int8")) != bool(quantization):
            needed = "arguments of quantization.prepare" if stage in ("qat", "int8") else "null"
            raise InputError(f"invalid quantization={quantization} for stage={stage}: expected {needed}")
        self.save_hyperparameters()
        self.labels, self.clip_samples, self.stage = labels, clip_samples, stage
        self.channel: int | str = channel
        self.frontend: Frontend = build(frontend)
        # channels_last makes convolutions on a CPU 1.4 to 2 times as fast
        self.net: nn.Module = build(net, n_classes=len(labels)).to(memory_format=torch.channels_last)
        if quantization:
            self.net = prepare(self.net, **quantization)
            if stage == "int8":
                self.net = convert(self.net, quantization["engine"])
        self.confusion = MulticlassConfusionMatrix(len(labels), validate_args=False)
        self.loss = self.adjusted_divergence  # loss(logits, target) in training; a phase may replace it
        self.log_prior: Tensor
        self.register_buffer("log_prior", torch.zeros(len(labels)), persistent=False)
        # metrics sync across processes; a check for NaN would wait for the GPU
        self.losses = CatMetric(nan_strategy="disable")  # log loss of each validation or test clip
        self.train_losses = CatMetric(nan_strategy="disable")  # loss of each clip in this epoch

    @property
    def sample_rate(self) -> int:
        """Sample rate of the waveforms for `forward`, Hz."""
        return self.frontend.sample_rate

    @property
    def min_samples(self) -> int:
        """Length of the shortest waveform that `forward` accepts, samples."""
        return self.frontend.min_samples

    def forward(self, wave: Tensor) -> Tensor:
        """Logits (batch, n_classes) of wave (batch, samples), mono in [-1, 1] at `sample_rate`.

        Raises:
            InputError: `wave` is not such a tensor, is shorter than `min_samples`, or contains NaN or infinity.
        """
        check_wave(wave)
        features = self.frontend(wave)
        try:
            return self.net(features)
        except RuntimeError as error:
            if self.stage != "int8" or wave.shape[-1] >= self.clip_samples:  # float networks check their input
                raise
            raise InputError(
                f"the 8-bit network failed on features of shape {tuple(features.shape)}: {one_line(error)}; "
                f"use longer clips, of up to {self.clip_samples} samples"
            ) from error

    def classify(self, path: str | Path, hop: float | None = None) -> dict[str, float]:
        """Probability of each label for an audio file of any sample rate, channels and length.

        A long file is cut into windows of the training length, the last one aligned with the end, and their
        probabilities are averaged. A short file is repeated. Several threads may classify with one model in eval mode,
        as `load_from_checkpoint` leaves it; while a thread trains it, classify with a copy.

        Args:
            path: the audio file.
            hop: seconds from one window to the next. None: no overlap.

        Raises:
            InputError: the file is not readable or too short.
        """
        if not isinstance(path, str | os.PathLike):
            raise InputError(
                f"invalid path of type {type(path).__name__}: expected the path of a sound file; "
                "for waveforms in memory, call model(wave)"
            )
        clips = windows(Path(path), self.sample_rate, self.channel, self.clip_samples, hop, shortest=self.min_samples)
        mean = np.mean([self.probabilities(wave[None])[0] for _, wave in clips], axis=0)
        return dict(zip(self.labels, mean.tolist(), strict=True))

    @torch.inference_mode()
    def probabilities(self, waves: np.ndarray) -> np.ndarray:
        """Probabilities (batch, n_classes) of waves (batch, samples), without changing the classifier's mode."""
        training = self.training
        if training:
            self.eval()  # no dropout, and no update of batch norm's statistics
        logits = self(torch.from_numpy(waves).to(self.device))
        if training:
            self.train()
        return logits.softmax(-1).cpu().numpy()

    def on_after_batch_transfer(self, batch: WaveBatch | FeatureBatch, dataloader_idx: int) -> list[Tensor]:
        """[features (batch, 1, n_bins, frames), target], a list which augmentation edits in place."""
        x, target = batch
        spectrogram = x.float() if isinstance(batch, FeatureBatch) else self.frontend.spectrogram(x)
        return [self.frontend.standardize(spectrogram), target]

    def on_fit_start(self) -> None:
        """Measure how frequent the classes are, for `logit_adjustment`.

        Raises:
            InputError: the training clips are not those of a `SceneData`.
        """
        if not self.hparams["logit_adjustment"]:
            return
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, SceneData):
            raise InputError("logit_adjustment counts the clips of each class: train on a SceneData, or set it to 0")
        prior = soft_labels(data.dataset("train").targets, len(self.labels)).float().mean(0)
        self.log_prior.copy_(prior.clamp_min(1e-6).log())  # a class may have no clips

    def adjusted_divergence(self, logits: Tensor, target: Tensor) -> Tensor:
        """KL divergence between targets and predictions for classes as frequent as in training."""
        return kl_divergence(logits + self.hparams["logit_adjustment"] * self.log_prior, target)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """KL divergence between targets and predictions (report, section 3); the optimizer adds L2."""
        x, target = batch
        loss = self.loss(self.net(x).float(), target)
        self.train_losses.update(loss.detach().expand(len(x)))
        return loss

    def on_train_epoch_start(self) -> None:
        self.train_losses.reset()

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Update the metrics and return the logits; targets are class indices, since only training mixes clips."""
        x, target = batch
        logits = self.net(x).float()
        self.confusion.update(logits, target)
        self.losses.update(F.cross_entropy(logits, target, reduction="none"))
        return logits

    def on_test_epoch_start(self) -> None:
        self.test_probabilities: list[list[float]] = []  # in the order of the test list

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        """As in validation, and store each clip's probabilities."""
        self.test_probabilities += self.validation_step(batch, batch_idx).softmax(-1).tolist()

    def predict_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Probabilities (batch, n_classes)."""
        return self.net(batch[0]).float().softmax(-1)

    def on_validation_epoch_end(self) -> None:
        """Log val/acc, the macro-average accuracy, and val/loss, the log loss."""
        result = self.epoch_metrics()
        self.log_dict({"val/acc": result.macro_accuracy, "val/loss": result.log_loss}, prog_bar=True, sync_dist=True)

    def on_test_epoch_end(self) -> None:
        """Log test/acc and test/loss, and store all metrics in `test_metrics`."""
        self.test_metrics = self.epoch_metrics()
        self.log_dict(
            {"test/acc": self.test_metrics.macro_accuracy, "test/loss": self.test_metrics.log_loss}, sync_dist=True
        )

    def epoch_metrics(self) -> Metrics:
        """Metrics of all clips since the last call."""
        matrix = self.confusion.compute().cpu()
        log_loss = self.losses.compute().mean().item()
        self.confusion.reset()
        self.losses.reset()
        return compute_metrics(matrix, log_loss, self.labels)

    def configure_optimizers(self) -> Any:
        """The optimizer and, if set, a scheduler stepped after each batch."""
        scheduler, backbone_lr_scale = self.hparams["scheduler"], self.hparams["backbone_lr_scale"]
        params: Any = self.parameters()
        if backbone_lr_scale != 1:
            module = getattr(self.net, "head", None)
            if not isinstance(module, nn.Module):
                raise InputError(
                    f"invalid backbone_lr_scale={backbone_lr_scale}: expected 1 for {type(self.net).__name__}, which "
                    "has no `head`; add this property, the module that computes the logits"
                )
            head = list(module.parameters())
            backbone = [parameter for parameter in self.parameters() if all(parameter is not other for other in head)]
            params = [
                {"params": backbone, "lr": backbone_lr_scale * self.hparams["optimizer"]["lr"]},
                {"params": head},
            ]
        optimizer = build(self.hparams["optimizer"], params=params)
        if scheduler is None:
            return optimizer
        if backbone_lr_scale != 1 and "max_lr" in scheduler:  # OneCycleLR overrides the groups' rates
            scheduler = {**scheduler, "max_lr": [backbone_lr_scale * scheduler["max_lr"], scheduler["max_lr"]]}
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = build(scheduler, optimizer=optimizer, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def start_from(self, source: "SceneClassifier") -> None:
        """Copy the weights of a trained classifier; a last layer for a different number of labels stays untrained.

        Raises:
            InputError: `source` has a different frontend or network.
        """
        for part in ("frontend", "net"):
            if names := differing_settings(source.hparams[part], self.hparams[part]):
                raise InputError(f"init was trained with a different {part} ({', '.join(names)}): use its settings")
        self.frontend.load_state_dict(source.frontend.state_dict())
        weights, own = source.net.state_dict(), self.net.state_dict()
        new = {name: value for name, value in own.items() if value.shape != weights[name].shape}
        self.net.load_state_dict({**weights, **new})

    def with_net(self, net: nn.Module, /, **changes: Any) -> "SceneClassifier":
        """A classifier with this one's frontend and the weights of `net`; `changes` are the hyperparameters of `net`.

        `backbone_lr_scale` applied to the previous training: it is reset to 1 unless `changes` sets it.
        """
        model = type(self)(**{**self.hparams, "backbone_lr_scale": 1.0, **changes})
        with running_on((model.hparams["quantization"] or {}).get("engine")):
            model.net.load_state_dict(net.state_dict())
        model.frontend.load_state_dict(self.frontend.state_dict())
        return model.eval()

    def folded(self) -> "SceneClassifier":
        """A copy for inference with batch norms folded into the convolutions: fewer operations, the same output."""
        model = copy.deepcopy(self)
        if self.stage in ("float", "pruned"):
            model.net = fold_checked(self.net, self.example_features())
        return model.eval()

    def complexity(self) -> Complexity:
        """Complexity of the network for one clip of the training length."""
        return complexity(self.net, self.example_features())

    def example_features(self) -> Tensor:
        """Features (1, 1, n_bins, frames) of a silent clip of the training length."""
        with torch.inference_mode():
            return self.frontend(torch.zeros(1, self.clip_samples, device=self.device))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["stage"] = self.stage
        checkpoint["asc_version"] = __version__

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls,
        checkpoint_path: str | Path,
        map_location: Any = None,
        trusted: Sequence[str] = (),
        weights_only: Literal[True] = True,
        content: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> "SceneClassifier":
        """Load a classifier for inference (`eval` mode).

        Args:
            checkpoint_path: any .ckpt of a run.
            map_location: as in `torch.load`; the CPU by default.
            trusted: modules besides asc and torch.optim whose classes the checkpoint may name, such as ("my_nets",).
            weights_only: always True; for compatibility with Lightning.
            content: result of `read_checkpoint`, if the file has already been read.
            kwargs: hyperparameters to replace.

        Raises:
            InputError: the file is missing, not a checkpoint of a SceneClassifier, or names an untrusted class.
        """
        checkpoint = content or read_checkpoint(checkpoint_path)
        hyperparameters = checkpoint["hyper_parameters"]
        try:
            check_classes(hyperparameters, trusted)
            engine = (hyperparameters.get("quantization") or {}).get("engine")
            with without_deprecation_notices(), running_on(engine):
                model = cls(**{**hyperparameters, **kwargs})
                model.load_state_dict(checkpoint["state_dict"])
            check_finite(model.state_dict())
        except (InputError, AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise InputError(f"checkpoint={checkpoint_path} cannot be loaded: {one_line(error)}") from error
        return model.to(map_location or "cpu").eval()


def check_wave(wave: Tensor) -> None:
    """Reject anything but finite waveforms: for NaN an 8-bit network would return plausible logits.

    Raises:
        InputError: describes the waveform.
    """
    if not isinstance(wave, Tensor) or not wave.is_floating_point() or wave.layout != torch.strided or not wave.numel():
        kind = f"{wave.dtype} {tuple(wave.shape)}" if isinstance(wave, Tensor) else type(wave).__name__
        raise InputError(f"invalid wave of {kind}: expected a dense tensor (batch, samples) of floating-point numbers")
    if not wave.isfinite().all():
        raise InputError("invalid wave: expected finite numbers, not NaN or infinity")


def soft_labels(target: Tensor, n_classes: int) -> Tensor:
    """Soft labels (batch, n_classes) from class indices (batch,); soft labels are returned as they are."""
    return F.one_hot(target, n_classes) if target.ndim == 1 else target


def kl_divergence(logits: Tensor, target: Tensor) -> Tensor:
    """Divergence of targets, class indices (batch,) or soft labels, and predictions, from logits (batch, n_classes)."""
    log_probs = F.log_softmax(logits, dim=-1)
    return F.kl_div(log_probs, soft_labels(target, logits.shape[-1]).to(log_probs), reduction="batchmean")
