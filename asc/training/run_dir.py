"""The directory of a run: it contains one run, by one process at a time, with its settings."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from asc.cli import resume_hint
from asc.errors import InputError, WriteError, one_line
from asc.files import atomic_write


def is_main_process() -> bool:
    """Whether this is the only process of a run, or the first of several."""
    from pytorch_lightning.utilities import rank_zero_only  # imported after --help, since torch takes seconds

    return getattr(rank_zero_only, "rank", 0) == 0


@contextmanager
def lock_run_dir(directory: Path) -> Iterator[None]:
    """Lock the directory for this process. The system releases the lock when the process ends, even if killed.

    The lock file stays: Windows does not delete an open file, and another process may have just opened it.

    Raises:
        InputError: another process has locked it.
        WriteError: it cannot be written.
    """
    lock = FileLock(directory / ".lock")
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
        lock.release()


def resume_setting(cfg: DictConfig) -> str:
    """Name of the setting that resumes a run: in compress.py, `checkpoint` is the classifier to compress."""
    return "resume" if "resume" in cfg else "checkpoint"


def check_other_run(cfg: DictConfig) -> None:
    """Reject a directory that contains a run, unless this command resumes it.

    Raises:
        InputError: names the checkpoint from which the run in the directory can be resumed, if it is not finished.
    """
    directory, setting = Path(cfg.run_dir), resume_setting(cfg)
    if cfg[setting] and Path(cfg[setting]).resolve().is_relative_to(directory.resolve()):
        return
    is_finished = (directory / "results.json").exists()
    for last in (directory / "qat.ckpt", directory / "checkpoints/last.ckpt"):
        if last.exists() and not is_finished:
            raise InputError(f"{directory} contains a run: resume with {setting}={last}, or set another hydra.run.dir")
    if is_finished or any(next(directory.glob(name), None) for name in ("*.ckpt", "checkpoints/*.ckpt")):
        raise InputError(f"{directory} contains a run: set another hydra.run.dir")


def save_settings(cfg: DictConfig) -> None:
    """Write .hydra/config.yaml, hydra.yaml and overrides.yaml, as Hydra does, without overwriting those of another run.

    Raises:
        WriteError: a file cannot be written.
    """
    hydra = HydraConfig.get()
    files = {"config": cfg, "hydra": OmegaConf.create({"hydra": hydra}), "overrides": hydra.overrides.task}
    folder = Path(cfg.run_dir) / ".hydra"
    folder.mkdir(parents=True, exist_ok=True)
    for name, settings in files.items():
        with atomic_write(folder / f"{name}.yaml") as temporary:
            temporary.write_text(OmegaConf.to_yaml(settings), encoding="utf-8")


@contextmanager
def explain_interruption(cfg: DictConfig, last: Path, batch_size: int) -> Iterator[None]:
    """On Ctrl-C in this block, exit with the command that resumes from `last`; name the batch size if memory runs out.

    Raises:
        InputError: a batch does not fit into memory.
        SystemExit: after Ctrl-C.
    """
    import torch  # imported after --help, since it takes seconds

    try:
        yield
    except SystemExit as stop:  # Lightning raises it on Ctrl-C
        hint = resume_hint(last, Path(cfg.run_dir), resume_setting(cfg))
        sys.exit(hint if is_main_process() else stop.code)
    except (RuntimeError, MemoryError) as error:
        is_full = isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error)
        if not is_full:
            raise
        raise InputError(
            f"invalid data.batch_size={batch_size}: not enough memory ({one_line(error)}); set a smaller one"
        ) from error
