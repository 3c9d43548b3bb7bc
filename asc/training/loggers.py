"""A run's logger (TensorBoard, Weights & Biases or MLflow), and what is logged besides the metrics of each epoch."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytorch_lightning as pl
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from asc.classifier import SceneClassifier, soft_labels
from asc.data import SceneData
from asc.errors import InputError, one_line
from asc.files import atomic_write
from asc.results import Results

EXTRAS = {"TensorBoardLogger": "tensorboard", "WandbLogger": "wandb", "MLFlowLogger": "mlflow"}


def make_logger(settings: DictConfig | None) -> Logger | None:
    """The logger of this group of settings; None without one.

    Raises:
        InputError: its library is not installed; names the extra.
    """
    if settings is None:
        return None
    try:
        return instantiate(settings)
    except InstantiationException as error:
        extra = EXTRAS.get(settings["_target_"].rpartition(".")[2])
        if isinstance(error.__cause__, ModuleNotFoundError) and extra:
            raise InputError(f'logger={extra} is not installed: pip install -e ".[{extra}]"') from error
        raise


@contextmanager
def open_log(logger: Logger | None) -> Iterator[None]:
    """Open the log before features are computed, and close it as "success" or "failed".

    Raises:
        InputError: the logger's files or server cannot be used; shows its library's reason.
    """
    if logger is None:
        yield
        return
    try:
        _ = logger.experiment  # type: ignore[attr-defined]
    except Exception as error:  # libraries raise their own exceptions
        name = EXTRAS.get(type(logger).__name__, type(logger).__name__)
        remedy = "set logger.offline=true" if isinstance(logger, WandbLogger) else "correct its settings"
        raise InputError(f"logger={name} failed: {one_line(error).rstrip('.')}; {remedy}, or omit it") from error
    status = "failed"
    try:
        yield
        status = "success"
    finally:
        logger.finalize(status)
        if isinstance(logger, WandbLogger) and logger._experiment is not None:
            logger.experiment.finish()  # Lightning leaves it open, even for a sweep's next run


def log_results(logger: Logger | None, results: Results, confusion_matrix: Path) -> None:
    """Log the final metrics and sizes, as values and as a table, and the plot of the confusion matrix.

    Args:
        logger: logger of the run; None logs nothing.
        results: results of the run.
        confusion_matrix: path of the plot.
    """
    if logger is None:
        return
    values = {f"test/{name}": getattr(results.test, name) for name in ("accuracy", "macro_accuracy", "log_loss")}
    values |= {f"test/accuracy_{label}": value for label, value in results.test.class_accuracy.items()}
    values |= results.complexity.model_dump()
    values = {name: value for name, value in values.items() if value is not None}
    logger.log_metrics(values)
    columns = ["metric", "value"]
    rows = [[name, float(value)] for name, value in values.items()]
    if isinstance(logger, TensorBoardLogger):
        lines = ["|metric|value|", "|---|---|", *(f"|{name}|{value}|" for name, value in rows)]
        logger.experiment.add_text("final_results", "\n".join(lines))
    elif isinstance(logger, WandbLogger):
        logger.log_table("final_results", columns, rows)
    elif isinstance(logger, MLFlowLogger):
        logger.experiment.log_dict(logger.run_id, {"columns": columns, "data": rows}, "final_results.json")
    log_picture(logger, "confusion_matrix", confusion_matrix)


def log_picture(logger: Logger, name: str, file: Path) -> None:
    """Log a PNG file, if the logger is one of EXTRAS."""
    if isinstance(logger, TensorBoardLogger):
        from matplotlib.image import imread

        logger.experiment.add_image(name, imread(file), dataformats="HWC")
    elif isinstance(logger, WandbLogger):
        logger.log_image(name, [str(file)])
    elif isinstance(logger, MLFlowLogger):
        logger.experiment.log_artifact(logger.run_id, str(file))


def log_augmentation(
    logger: Logger, model: SceneClassifier, data: SceneData, augmentation: Sequence[pl.Callback], path: Path
) -> None:
    """Plot the features of a training clip before and after augmentation to `path`, and log the plot."""
    from matplotlib.figure import Figure  # pyplot would need a display

    with torch.random.fork_rng(), torch.no_grad():
        batch = next(iter(data.loader("train", shuffle=True, whole=True)))
        before = model.on_after_batch_transfer(model.transfer_batch_to_device(batch, model.device, 0), 0)
        after = list(before)
        for callback in augmentation:
            callback.on_train_batch_start(None, model, after, 0)  # type: ignore[arg-type]
    clips = [x[-1, 0].float().cpu().numpy() for x, _ in (before, after)]  # (n_bins, frames)
    low, high = min(clip.min() for clip in clips), max(clip.max() for clip in clips)
    figure = Figure(figsize=(8, 5.2), layout="constrained")
    titles = ("before augmentation", "after augmentation")
    for axes, title, clip, target in zip(figure.subplots(2), titles, clips, (before[1], after[1]), strict=True):
        shares = soft_labels(target, len(model.labels))[-1].tolist()
        labels = [f"{share:.0%} {label}" for share, label in zip(shares, model.labels, strict=True) if share >= 0.005]
        image = axes.imshow(clip, origin="lower", aspect="auto", vmin=low, vmax=high, cmap="magma")
        axes.set_title(f"{title}: {', '.join(labels)}", parse_math=False)
        axes.set(xlabel="frame", ylabel="frequency bin", xlim=(-0.5, clips[0].shape[1] - 0.5))
        figure.colorbar(image, ax=axes, label="feature")
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=120)
    log_picture(logger, "augmentation", path)
