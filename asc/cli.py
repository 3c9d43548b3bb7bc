"""What the commands share: one-line error messages and silenced libraries."""

import logging
import shlex
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from asc.errors import InputError


@contextmanager
def exit_on_input_error() -> Iterator[None]:
    """Exit with a one-line message and status 1 on invalid input; other exceptions keep their traceback."""
    try:
        yield
    except InputError as error:
        # from a worker process, the text is a traceback that ends with the message
        sys.exit("error: " + str(error).strip().splitlines()[-1].removeprefix("asc.errors.InputError: "))
    except InstantiationException as error:
        inner: BaseException = error
        while isinstance(inner.__cause__, InstantiationException | InputError):  # one per level of nesting
            inner = inner.__cause__
        prefix = "" if isinstance(inner, InputError) else "invalid setting: "
        sys.exit(f"error: {prefix}{one_line(inner)}")
    except MissingMandatoryValue as error:
        sys.exit(f"error: {error.full_key} is not set: give it on the command line, as {error.full_key}=...")
    except OmegaConfBaseException as error:
        sys.exit(f"error: {one_line(error)}")
    except KeyboardInterrupt:
        sys.exit("\nstopped")


def resume_hint(last: Path | None, run_dir: Path) -> str:
    """The message after Ctrl-C, with the command that resumes from the checkpoint `last` if it exists."""
    if not last or not last.exists():
        return "\nstopped: no epoch is complete, so start again"
    overrides = [item for item in HydraConfig.get().overrides.task if not item.startswith("checkpoint=")]
    arguments = [*overrides, f"checkpoint={last}", f"hydra.run.dir={run_dir}"]
    command = " ".join(["python", *map(shlex.quote, [sys.argv[0], *arguments])])
    return f"\nstopped: completed epochs are in {last}. Resume with\n  {command}"


def one_line(error: BaseException) -> str:
    """The message without line breaks."""
    return " ".join(str(error).split())


def silence_libraries() -> None:
    """Silence log messages and warnings that a user cannot act on."""
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for message in (
        ".*does not have many workers.*",
        ".*You defined a `validation_step` but have no `val_dataloader`.*",
        ".*number of training batches.*is smaller than the logging interval.*",
        ".*Total length of `list` across ranks is zero.*",
        ".*You have overridden `on_after_batch_transfer` in `LightningModule`.*",
        ".*isinstance\\(treespec, LeafSpec\\)` is deprecated.*",
        "Checkpoint directory .* exists and is not empty",  # when a run resumes
        "The dirpath has changed from",  # when a run resumes in another directory
    ):
        warnings.filterwarnings("ignore", message)
