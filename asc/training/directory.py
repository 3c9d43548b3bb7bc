"""The directory of a run: it holds one run, by one process at a time."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from pytorch_lightning.utilities import rank_zero_only

from asc.errors import InputError, SweepError, WriteError
from asc.training.settings import check_settings

LOCK_FILE = ".lock"


def alone_in_directory(job: Callable[[DictConfig], float | None]) -> Callable[[DictConfig], float | None]:
    """Decorate a job: it checks its settings, and refuses a directory in which another process works."""

    @functools.wraps(job)
    def locked_job(cfg: DictConfig) -> float | None:
        check_settings(cfg)
        refuse_no_directory()
        if getattr(rank_zero_only, "rank", 0):  # distributed training: the first process holds the lock
            return job(cfg)
        with locked(Path(cfg.run_dir)):
            return job(cfg)

    return locked_job


def refuse_no_directory() -> None:
    """Refuse an empty hydra.run.dir or hydra.sweep.dir, which would scatter runs in the current directory.

    Raises:
        SweepError: names the setting; it ends a whole sweep.
    """
    if HydraConfig.initialized():
        hydra = HydraConfig.get()
        is_sweep = hydra.mode == RunMode.MULTIRUN
        if not (hydra.sweep.dir if is_sweep else hydra.run.dir).strip():
            raise SweepError(f"hydra.{'sweep' if is_sweep else 'run'}.dir is empty: name a directory, or leave it out")


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
