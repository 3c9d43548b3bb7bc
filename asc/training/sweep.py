"""A sweep of runs: if one fails the others continue, and the sweep ends with a table and a plot.

Hydra's sweepers end at the first SystemExit of a job, and do not call their callbacks on Ctrl-C. So each job, perhaps
on another machine, records in its directory how it ended, and the command reads these records before it exits.
"""

import json
import logging
import os
import re
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

from asc.cli import exit_on_input_error, input_fault, silence_libraries
from asc.errors import InputError, SweepError, TooLargeError, one_line, printable
from asc.files import atomic_write
from asc.machine import keep_freed_memory
from asc.settings import literal
from asc.training.run_dir import check_other_run, is_main_process, lock_run_dir, save_settings
from asc.training.settings import check_settings

WORST = float("-inf")  # objective of a failed run, so that Optuna avoids its settings

Job = Callable[[DictConfig], float | None]


class Sweep(Callback):
    """Called by Hydra when a sweep starts.

    Attributes:
        directory: the directory of this process's sweep; None outside a sweep.
    """

    directory: ClassVar[Path | None] = None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        Sweep.directory = Path(config.hydra.sweep.dir)
        logging.getLogger("alembic").setLevel(logging.WARNING)  # which Optuna imports next


@contextmanager
def sweep_summary() -> Iterator[None]:
    """Run a command in this block. A sweep ends with table and plot, even after Ctrl-C, and status 1 if a run failed.

    Raises:
        InputError: a search needs an extra that is missing, or a setting has dashes.
        SystemExit: see `exit_on_input_error`, or a run failed.
    """
    Sweep.directory = None
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # otherwise Hydra prints long errors itself
    with exit_on_input_error():
        is_search = any(argument.startswith(("search=", "+search=")) for argument in sys.argv[1:])
        if is_search and find_spec("hydra_plugins.hydra_optuna_sweeper") is None:
            raise InputError('search= needs Optuna: pip install -e ".[sweep]"')
        if dashed := next(filter(re.compile(r"--((?!cfg|info|package)[\w.]+=|\w+\.)").match, sys.argv[1:]), None):
            raise InputError(
                f"invalid {dashed}: expected {dashed.lstrip('-')}, without dashes; in the command of a sweep of "
                "Weights & Biases, use ${args_no_hyphens}"
            )
        is_sweep = bool({"-m", "--multirun"} & set(sys.argv))
        sys.argv[1:] = [literal(argument, is_sweep) for argument in sys.argv[1:]]
        try:
            yield
        finally:
            failed = report_sweep(Sweep.directory) if Sweep.directory and is_main_process() else False
    if failed:
        sys.exit(1)


def report_sweep(directory: Path) -> bool:
    """Print the table of the runs so far, if any has ended, and write its files; return whether a run failed."""
    from asc.training.sweep_report import read_runs, sweep_report  # pandas is slow to import

    runs = read_runs(directory)
    if (runs.status != "stopped").any():
        print(sweep_report(directory, runs), flush=True)
    return bool((runs.status == "failed").any())


def run_job(cfg: DictConfig, job: Job) -> float | None:
    """Run `job` with its settings in its own directory, and return its objective; in a sweep, record its status."""
    keep_freed_memory()
    with exit_on_input_error():
        is_sweep = HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
        return run_and_record(cfg, job) if is_sweep else run_locked(cfg, job)


def run_locked(cfg: DictConfig, job: Job) -> float | None:
    """Run `job`; reject invalid settings, and a directory that contains another run or is used by another process."""
    check_settings(cfg)
    is_main = is_main_process()
    silence_libraries()  # once Lightning is imported, which sets the level of its log
    if not is_main:  # in distributed training the first process has locked the directory
        return job(cfg)
    with lock_run_dir(Path(cfg.run_dir)):
        check_other_run(cfg)
        save_settings(cfg)
        return job(cfg)


def run_and_record(cfg: DictConfig, job: Job) -> float | None:
    """Run a job of a sweep unless it is finished, and write its job.json.

    Raises:
        SweepError: no run of the sweep can start.
        WriteError: job.json cannot be written.
    """
    from asc.training.sweep_report import JOB_FILE, read_record

    file, overrides = Path(cfg.run_dir) / JOB_FILE, list(HydraConfig.get().overrides.task)
    earlier = read_record(file)
    if earlier and earlier["overrides"] == overrides and earlier["status"] == "finished":
        print(f"{cfg.run_dir} is already finished")
        return earlier["objective"]
    record: dict[str, Any] = {"overrides": overrides, "status": "finished", "objective": None, "reason": ""}
    try:
        record["objective"] = run_locked(cfg, job)
    except (SweepError, BrokenPipeError):
        raise
    except TooLargeError as error:
        record |= {"status": "too large", "objective": error.objective, "reason": str(error)}
        print(error)
    except Exception as error:
        message = input_fault(error)
        record |= {"status": "failed", "reason": message or one_line(error)}
        print(f"error: {printable(message)}" if message else traceback.format_exc(), file=sys.stderr, flush=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(file) as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n")
    return WORST if record["status"] == "failed" else record["objective"]


def check_search(held_out: Sequence[Any]) -> None:
    """Reject a search without validation clips: it would select on the test clips.

    Args:
        held_out: the validation clips.

    Raises:
        SweepError: names the setting that holds out clips.
    """
    hydra = HydraConfig.get() if HydraConfig.initialized() else None
    is_search = hydra and hydra.mode == RunMode.MULTIRUN and "BasicSweeper" not in hydra.sweeper._target_
    if is_search and not held_out:
        raise SweepError(
            "a search chooses by validation accuracy, but no clips are held out: set data.val_fraction=0.25, "
            "and for compress.py, train its checkpoint with it"
        )


def check_size(size_kb: float, max_size_kb: float | None) -> None:
    """Reject a network whose non-zero parameters exceed `max_size_kb`.

    Raises:
        TooLargeError: contains an objective below 0, for a search.
    """
    if max_size_kb is not None and size_kb > max_size_kb:
        raise TooLargeError(size_kb, max_size_kb)
