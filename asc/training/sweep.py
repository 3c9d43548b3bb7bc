"""A sweep of runs: if one fails the others go on, and the sweep ends with a table and a plot.

Hydra's sweepers end at the first SystemExit of a job, and do not call their callbacks on Ctrl-C. So each job, perhaps
on another machine, writes a job.json about its end to its directory, and the command reads these files before it ends,
for whatever reason.
"""

import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from asc.cli import exit_on_input_error, input_fault, one_line
from asc.errors import InputError, SweepError, TooLargeError, printable
from asc.files import atomic_write
from asc.settings import literal
from asc.training.directory import refuse_other_run_early, save_settings
from asc.training.jobs import JOB_FILE, Job, read_jobs, read_record, sweep_report

WORST = float("-inf")  # a failed run's objective, from which Optuna learns to avoid its settings


class Sweep(Callback):
    """Called by Hydra at the start of a run, a sweep and a job: checks directories, and notes the sweep's.

    Attributes:
        directory: of the sweep in this process; None outside a sweep.
    """

    directory: ClassVar[Path | None] = None

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        with exit_on_input_error():  # Hydra would take an exception for a warning
            refuse_other_run_early(config)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        Sweep.directory = Path(config.hydra.sweep.dir)
        logging.getLogger("alembic").setLevel(logging.WARNING)  # which Optuna imports next

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        if is_main_process():
            with exit_on_input_error():
                save_settings(Path(config.hydra.runtime.output_dir) / ".hydra", config)


@contextmanager
def sweep_summary() -> Iterator[None]:
    """Run a command in this block: a sweep ends with table and plot, even after Ctrl-C, and with 1 if a run failed.

    Raises:
        SystemExit: see `exit_on_input_error`, or a run failed.
    """
    Sweep.directory = None
    failed = False
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # otherwise Hydra prints errors itself, in many lines
    with exit_on_input_error():
        check_extra()
        check_directory()
        sys.argv[1:] = map(literal, sys.argv[1:])
        try:
            yield
        finally:
            jobs: list[Job] = read_jobs(Sweep.directory) if Sweep.directory and is_main_process() else []
            failed = any(job.status == "failed" for job in jobs)
            if Sweep.directory and any(job.status != "stopped" for job in jobs):
                print(sweep_report(Sweep.directory, jobs), flush=True)
    if failed:
        sys.exit(1)


def is_main_process() -> bool:
    """Whether this is the only process of a run, or the first of several."""
    from pytorch_lightning.utilities import rank_zero_only  # after --help, since torch takes seconds

    return getattr(rank_zero_only, "rank", 0) == 0


def check_extra() -> None:
    """Refuse a search without Optuna, with a shorter message than Hydra's.

    Raises:
        InputError: names the extra.
    """
    is_search = any(word.startswith(("search=", "+search=")) for word in sys.argv[1:])
    if is_search and find_spec("hydra_plugins.hydra_optuna_sweeper") is None:
        raise InputError('search= needs Optuna: pip install -e ".[sweep]"')


def check_directory() -> None:
    """Refuse `hydra.run.dir=` without a directory: Hydra would write the run into the current one.

    Raises:
        InputError: names the setting.
    """
    for setting in ("hydra.run.dir=", "hydra.sweep.dir="):
        if setting in sys.argv[1:]:
            raise InputError(f"{setting} names no directory: give one, or leave it out")


def run_job(cfg: DictConfig, job: Callable[[DictConfig], float | None]) -> float | None:
    """Run `job` on its settings and return its objective; in a sweep, record how it ended."""
    with exit_on_input_error():
        if HydraConfig.get().mode != RunMode.MULTIRUN or not is_main_process():
            return job(cfg)
        return run_and_record(cfg, job)


def run_and_record(cfg: DictConfig, job: Callable[[DictConfig], float | None]) -> float | None:
    """Run a job of a sweep unless it is finished, and write its job.json.

    Raises:
        SweepError: the whole sweep is refused.
        WriteError: job.json cannot be written.
    """
    file, overrides = Path(cfg.run_dir) / JOB_FILE, list(HydraConfig.get().overrides.task)
    earlier = read_record(file.parent)
    if earlier and earlier["overrides"] == overrides and earlier["status"] == "finished":
        print(f"{cfg.run_dir} is finished already")
        return earlier["objective"]
    record: dict[str, Any] = {"overrides": overrides, "status": "finished", "objective": None, "reason": ""}
    try:
        record["objective"] = job(cfg)
    except (SweepError, BrokenPipeError):
        raise
    except TooLargeError as error:
        record |= {"status": "too large", "objective": error.objective, "reason": str(error)}
        print(error)
    except Exception as error:
        message = input_fault(error)
        record |= {"status": "failed", "reason": message or one_line(error) or type(error).__name__}
        print(f"error: {printable(message)}" if message else traceback.format_exc(), file=sys.stderr, flush=True)
    with atomic_write(file) as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n")
    return WORST if record["status"] == "failed" else record["objective"]


def check_search(held_out: Sequence[Any]) -> None:
    """Refuse a search, which chooses by the objective, without validation clips: it would choose by the test.

    Args:
        held_out: the validation clips.

    Raises:
        SweepError: says how to get validation clips.
    """
    hydra = HydraConfig.get() if HydraConfig.initialized() else None
    is_search = hydra and hydra.mode == RunMode.MULTIRUN and "BasicSweeper" not in hydra.sweeper._target_
    if is_search and not held_out:
        raise SweepError(
            "a search chooses by validation accuracy, but no clips are held out: set data.val_fraction=0.25, "
            "and for compress.py train its checkpoint so"
        )


def check_size(size_kb: float, max_size_kb: float | None) -> None:
    """Refuse a network whose non-zero parameters take more KB than the setting allows.

    Raises:
        TooLargeError: a search's objective is then below 0.
    """
    if max_size_kb is not None and size_kb > max_size_kb:
        raise TooLargeError(size_kb, max_size_kb)
