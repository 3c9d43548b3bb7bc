"""What the commands share: one sentence for a user's mistake, and no chatter of libraries."""

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
    """Turn a mistake in the input into one sentence on stderr and exit status 1; anything else keeps its traceback."""
    try:
        yield
    except InputError as error:
        # one from a worker process arrives as that process's traceback, which ends with the sentence
        sys.exit("error: " + str(error).strip().splitlines()[-1].removeprefix("asc.errors.InputError: "))
    except InstantiationException as error:
        inner: BaseException = error
        while isinstance(inner.__cause__, InstantiationException | InputError):  # one for each level of the settings
            inner = inner.__cause__
        refused = "" if isinstance(inner, InputError) else "invalid setting: "
        sys.exit(f"error: {refused}{one_line(inner)}")
    except MissingMandatoryValue as error:
        sys.exit(f"error: {error.full_key} is not set: give it on the command line, as {error.full_key}=...")
    except OmegaConfBaseException as error:
        sys.exit(f"error: {one_line(error)}")
    except KeyboardInterrupt:
        sys.exit("\nstopped")


def resume_hint(last: Path | None, run_dir: Path) -> str:
    """What to say after Ctrl-C: the command that goes on from the checkpoint `last`, if there is one yet."""
    if not last or not last.exists():
        return "\nstopped: there is nothing to resume, start again"
    overrides = [word for word in HydraConfig.get().overrides.task if not word.startswith("checkpoint=")]
    words = [*overrides, f"checkpoint={last}", f"hydra.run.dir={run_dir}"]
    command = " ".join(["python", *map(shlex.quote, [sys.argv[0], *words])])
    return f"\nstopped; the epochs done are in {last}. Resume by\n  {command}"


def one_line(error: BaseException) -> str:
    """The message without line breaks."""
    return " ".join(str(error).split())


def silence_libraries() -> None:
    """Silence what the user can do nothing about."""
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for message in (
        ".*does not have many workers.*",
        ".*You defined a `validation_step` but have no `val_dataloader`.*",
        ".*number of training batches.*is smaller than the logging interval.*",
        ".*Total length of `list` across ranks is zero.*",
        ".*You have overridden `on_after_batch_transfer` in `LightningModule`.*",
        ".*isinstance\\(treespec, LeafSpec\\)` is deprecated.*",
        "Checkpoint directory .* exists and is not empty",  # that of a resumed run
        "The dirpath has changed from",  # a run resumed elsewhere
    ):
        warnings.filterwarnings("ignore", message)
