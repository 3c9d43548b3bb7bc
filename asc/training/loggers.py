"""A run's logger (TensorBoard, Weights & Biases or MLflow), and what it gets besides the metrics of each epoch."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from torch import Tensor

from asc.classifier import SceneClassifier
from asc.errors import InputError, WriteError, one_line
from asc.files import atomic_write

EXTRAS = {"TensorBoardLogger": "tensorboard", "WandbLogger": "wandb", "MLFlowLogger": "mlflow"}


def make_logger(settings: DictConfig | None) -> Logger | None:
    """The logger of the settings' group; None without one.

    Raises:
        InputError: its library is not installed; names the extra.
    """
    if settings is None:
        return None
    try:
        return instantiate(settings)
    except InstantiationException as error:
        name = settings["_target_"].rpartition(".")[2]
        if isinstance(error.__cause__, ModuleNotFoundError) and name in EXTRAS:
            extra = EXTRAS[name]
            raise InputError(f'logger={extra} is not installed: pip install -e ".[{extra}]"') from error
        raise


def open_logger(logger: Logger | None) -> None:
    """Begin the log, before anything is trained.

    Raises:
        InputError: the logger's files or server cannot be used; gives its library's reason.
    """
    if logger is not None:
        try:
            _ = logger.experiment  # type: ignore[attr-defined]
        except Exception as error:  # of the library's own kinds
            raise InputError(f"{setting(logger)} cannot begin: {one_line(error)}") from error


def setting(logger: Logger) -> str:
    """How the logger was chosen on the command line."""
    return f"logger={EXTRAS.get(type(logger).__name__, type(logger).__name__)}"


@contextmanager
def writing_log(logger: Logger | None) -> Iterator[None]:
    """If the log cannot be written in this block, name the logger: the system's error does not.

    Raises:
        WriteError: gives the system's reason.
    """
    before = threading.excepthook

    def excepthook(fault: threading.ExceptHookArgs) -> None:
        if not isinstance(fault.exc_value, OSError):  # of TensorBoard's thread, which raises it here too
            before(fault)

    threading.excepthook = excepthook
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        # Lightning and MLflow hide it in errors of their own
        fault = error if isinstance(error, OSError) else error.__cause__ or error.__context__
        if logger is None or not isinstance(fault, OSError) or not fault.errno:
            raise
        if fault is error and fault.filename:  # is told as any other
            raise
        why = f"{setting(logger)} cannot write ({fault.strerror})"
        raise WriteError(f"{why}: free space, or leave the logger out") from error
    finally:
        threading.excepthook = before


def log_results(logger: Logger, results: dict[str, Any], confusion_matrix: Path) -> None:
    """Log the final metrics and sizes, as values and as a table, and the plot of the confusion matrix.

    Args:
        logger: of the run.
        results: content of results.json.
        confusion_matrix: the plot's file.
    """
    values = {f"test/{name}": results["test"][name] for name in ("accuracy", "macro_accuracy", "log_loss")}
    values |= {f"test/accuracy_{label}": value for label, value in results["test"]["class_accuracy"].items()}
    values |= results["complexity"]
    values = {name: value for name, value in values.items() if value is not None}
    logger.log_metrics(values)
    log_table(logger, "final_results", ["metric", "value"], [[name, float(value)] for name, value in values.items()])
    log_picture(logger, "confusion_matrix", confusion_matrix)


def log_picture(logger: Logger, name: str, file: Path) -> None:
    """Log a PNG file; a logger of another kind gets none."""
    if isinstance(logger, TensorBoardLogger):
        from matplotlib.image import imread

        logger.experiment.add_image(name, imread(file), dataformats="HWC")
    elif isinstance(logger, WandbLogger):
        logger.log_image(name, [str(file)])
    elif isinstance(logger, MLFlowLogger):
        logger.experiment.log_artifact(logger.run_id, str(file))


def log_table(logger: Logger, name: str, columns: list[str], rows: list[list[Any]]) -> None:
    """Log a table; a logger of another kind gets none."""
    if isinstance(logger, TensorBoardLogger):
        lines = [columns, ["---"] * len(columns), *rows]
        logger.experiment.add_text(name, "\n".join("|" + "|".join(map(str, line)) + "|" for line in lines))
    elif isinstance(logger, WandbLogger):
        logger.log_table(name, columns, rows)
    elif isinstance(logger, MLFlowLogger):  # its log_table needs pandas and writes the same
        logger.experiment.log_dict(logger.run_id, {"columns": columns, "data": rows}, f"{name}.json")


def close_logger(logger: Logger | None, status: str) -> None:
    """Write what is buffered; the next run of a sweep, in this process, begins a log of its own.

    Args:
        logger: of the run.
        status: "success" or "failed".
    """
    if logger is not None:
        logger.finalize(status)
    if isinstance(logger, WandbLogger) and logger._experiment is not None:
        logger.experiment.finish()  # Lightning leaves it open


class LogAugmentation(pl.Callback):
    """Writes and logs augmentation.png: the spectrogram of a training clip before and after augmentation.

    Args:
        path: of the plot.
    """

    def __init__(self, path: Path):
        self.path = path
        self.before: tuple[Tensor, Tensor] | None = None

    def on_train_batch_start(self, trainer: pl.Trainer, model: SceneClassifier, batch: list, batch_idx: int) -> None:
        """Keep the last clip of the run's first batch; this callback comes before the augmentation."""
        if trainer.current_epoch == batch_idx == 0 and trainer.is_global_zero:
            self.before = batch[0][-1].clone(), batch[1][-1]

    def on_train_batch_end(
        self, trainer: pl.Trainer, model: SceneClassifier, outputs: Any, batch: list, batch_idx: int
    ) -> None:
        """Plot that clip and its augmented version, which is the last one too if mixup doubles the batch."""
        if self.before and trainer.logger:
            clips = [self.before, (batch[0][-1], batch[1][-1])]
            targets = [describe(target, model.labels) for _, target in clips]
            titles = [f"before augmentation: {targets[0]}", f"after: {targets[1]}"]
            plot_spectrograms([features[0].float().cpu() for features, _ in clips], titles, self.path)
            log_picture(trainer.logger, "augmentation", self.path)
        self.before = None


def describe(target: Tensor, labels: list[str]) -> str:
    """A target in words: a class index, or soft labels (n_classes,)."""
    if target.ndim == 0:
        return labels[int(target)]
    shares = sorted(zip(target.tolist(), labels, strict=True), reverse=True)
    return ", ".join(f"{100 * share:.0f} % {label}" for share, label in shares if share >= 0.005)


def plot_spectrograms(spectrograms: list[Tensor], titles: list[str], path: Path) -> None:
    """Plot spectrograms (n_bins, frames) below each other, in the same colours and the same width of a frame."""
    from matplotlib.figure import Figure  # pyplot would look for a display

    low, high = min(x.min().item() for x in spectrograms), max(x.max().item() for x in spectrograms)
    frames = max(x.shape[1] for x in spectrograms)
    figure = Figure(figsize=(8, 2.6 * len(spectrograms)), layout="constrained")
    for axes, x, title in zip(figure.subplots(len(spectrograms)), spectrograms, titles, strict=True):
        image = axes.imshow(x.numpy(), origin="lower", aspect="auto", vmin=low, vmax=high, cmap="magma")
        axes.set(title=title.replace("_", " "), xlabel="frame", ylabel="frequency bin", xlim=(-0.5, frames - 0.5))
        figure.colorbar(image, ax=axes, label="feature")
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=120)
