"""The directory of a run: it holds one run, by one process at a time."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf

from asc.errors import InputError, WriteError
from asc.files import atomic_write
from asc.training.settings import check_settings

LOCK_FILE = ".lock"


def lock_run_dir(job: Callable[[DictConfig], float | None]) -> Callable[[DictConfig], float | None]:
    """Decorate a job: it checks its settings, and refuses a directory in which another process works."""

    @functools.wraps(job)
    def locked_job(cfg: DictConfig) -> float | None:
        check_settings(cfg)
        from pytorch_lightning.utilities import rank_zero_only  # after wrong settings, since torch takes seconds

        if getattr(rank_zero_only, "rank", 0):  # distributed training: the first process holds the lock
            return job(cfg)
        with locked(Path(cfg.run_dir)):
            return job(cfg)

    return locked_job


def save_settings(folder: Path, config: DictConfig) -> None:
    """Write config.yaml, hydra.yaml and overrides.yaml of a run.

    If the disk is full, Hydra itself would truncate the files of the run that is to be resumed.

    Args:
        folder: .hydra in the run's directory.
        config: settings of the command, and Hydra's.

    Raises:
        WriteError: a file cannot be written.
    """
    files = {
        "config": OmegaConf.masked_copy(config, [name for name in map(str, config) if name != "hydra"]),
        "hydra": OmegaConf.masked_copy(config, "hydra"),
        "overrides": config.hydra.overrides.task,
    }
    for name, settings in files.items():
        with atomic_write(folder / f"{name}.yaml") as temporary:
            folder.mkdir(parents=True, exist_ok=True)
            temporary.write_text(OmegaConf.to_yaml(settings), encoding="utf-8")


def resume_setting(cfg: DictConfig) -> str:
    """Name of the setting that resumes a run: compress.py's `checkpoint` is what it compresses."""
    return "resume" if "resume" in cfg else "checkpoint"


def refuse_other_run(directory: Path, checkpoint: Path, setting: str) -> None:
    """Refuse to overwrite a run; an unfinished one can be resumed by this setting if `checkpoint` exists.

    Raises:
        InputError: the directory holds a run.
    """
    if checkpoint.exists() and not (directory / "results.json").exists():
        raise InputError(f"{directory} holds a run: resume it by {setting}={checkpoint}, or set another hydra.run.dir")
    if any(next(directory.glob(name), None) for name in ("results.json", "*.ckpt", "checkpoints/*.ckpt")):
        raise InputError(f"{directory} holds a run: set another hydra.run.dir")


def refuse_other_run_early(cfg: DictConfig) -> None:
    """Refuse before Hydra writes this command's settings over those of the run in the directory.

    Args:
        cfg: settings of the command, and Hydra's.

    Raises:
        InputError: the directory holds a run, and what is to be resumed is not in it.
    """
    directory, setting = Path(cfg.hydra.run.dir), resume_setting(cfg)
    resumed = cfg[setting]
    if isinstance(resumed, str) and Path(resumed).resolve().is_relative_to(directory.resolve()):
        return
    saved = [directory / name for name in ("qat.ckpt", "checkpoints/last.ckpt")]
    refuse_other_run(directory, next(filter(Path.exists, saved), saved[-1]), setting)


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the directory for this process; the system frees it when the process ends, however it does.

    Raises:
        InputError: another process holds it.
        WriteError: it cannot be written.
    """
    lock = FileLock(directory / LOCK_FILE)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        message = f"{directory} is in use by another process: wait for it, or set another hydra.run.dir"
        raise InputError(message) from error
    except OSError as error:
        raise WriteError(f"{directory} cannot be written ({error.strerror}): set another hydra.run.dir") from error
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()
