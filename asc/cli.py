"""Code shared by the commands: one-line error messages and silenced libraries."""

import argparse
import errno
import io
import logging
import os
import shlex
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from asc.errors import InputError, one_line, printable


def add_trusted_option(parser: argparse.ArgumentParser) -> None:
    """Add --trusted, which appends module names to a list."""
    parser.add_argument(
        "--trusted",
        action="append",
        default=[],
        metavar="MODULE",
        help="module whose classes the checkpoint may name; may be repeated",
    )


@contextmanager
def exit_on_input_error() -> Iterator[None]:
    """Exit with one sentence on invalid input, Ctrl-C or a closed pipe; other exceptions keep their traceback.

    The exit status is 1 on invalid input and 130 on Ctrl-C. SIGTERM, which SLURM, Kubernetes and `kill` send, acts
    like Ctrl-C.
    """
    prepare_streams()
    is_main = threading.current_thread() is threading.main_thread()  # Python can set signal handlers only there
    before = signal.signal(signal.SIGTERM, signal.default_int_handler) if is_main else None
    try:
        yield
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader, such as `head`, has closed it
        discard_output()
        sys.exit(1)
    except Exception as error:
        if message := input_fault(error) or system_fault(error):
            sys.exit(f"error: {printable(message)}")
        raise
    finally:
        if is_main:
            signal.signal(signal.SIGTERM, before)


def prepare_streams() -> None:
    """Replace closed standard streams by os.devnull, and escape characters that the output's encoding lacks."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def discard_output() -> None:
    """Discard buffered standard output, which Python would fail to flush at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def input_fault(error: Exception) -> str | None:
    """One sentence for an exception about the user's input; None for any other exception."""
    if isinstance(error, InputError):
        # a worker process sends a traceback as the message, which ends with the sentence
        return str(error).strip().split("\n")[-1].removeprefix("asc.errors.InputError: ")
    return settings_fault(error)


def system_fault(error: Exception) -> str | None:
    """One sentence for a system error: no memory, a full disk, no permission, a directory instead of a file."""
    if isinstance(error, RuntimeError) and "DataLoader worker (pid" in str(error):
        return (
            f"{one_line(error).partition('. ')[0]}, perhaps for lack of memory or of space in /dev/shm: "
            "free some, set data.num_workers=0 or reduce data.batch_size"
        )
    if not isinstance(error, OSError) or error.errno is None:
        return None
    if error.filename is not None:
        return f"{error.filename}: {error.strerror}; check the path, its permissions and the free space"
    if error.errno == errno.ENOSPC:
        discard_output()
        return f"{error.strerror}: free space there or in the output's location"
    return None


def settings_fault(error: Exception) -> str | None:
    """One sentence for an exception of Hydra, OmegaConf or Lightning; None for any other."""
    if "hydra" not in sys.modules:  # a command without Hydra
        return None
    from hydra.errors import HydraException, InstantiationException, OverrideParseException
    from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

    if isinstance(error, InstantiationException):
        inner: BaseException = error
        while isinstance(inner.__cause__, InstantiationException | InputError):  # one per level of nesting
            inner = inner.__cause__
        return ("" if isinstance(inner, InputError) else "invalid setting: ") + one_line(inner)
    if isinstance(error, OverrideParseException):
        return f"invalid setting {error.override}: expected NAME=VALUE, with quotes around special characters"
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} is not set: give it on the command line, as {error.full_key}=..."
    if isinstance(error, ValueError) and str(error).startswith("Config group override must be"):
        return "invalid GROUP=null: expected one of its files; to leave a group out, give '~GROUP', as '~experiment'"
    if isinstance(error, HydraException | OmegaConfBaseException) or is_misconfiguration(error):
        return one_line(error).partition(" Config search path:")[0].partition(" See https:")[0]
    return None


def is_misconfiguration(error: Exception) -> bool:
    """Whether Lightning rejects a setting; this does not import Lightning, which takes seconds."""
    if "pytorch_lightning" not in sys.modules:
        return False
    from pytorch_lightning.utilities.exceptions import MisconfigurationException

    return isinstance(error, MisconfigurationException)


def resume_hint(last: Path, run_dir: Path, setting: str) -> str:
    """The message after Ctrl-C, with the command that resumes from the checkpoint `last`, given as `setting`."""
    if not last.exists():
        return "\nstopped: nothing was saved yet, so start again"
    from hydra.core.hydra_config import HydraConfig

    overrides = [item for item in HydraConfig.get().overrides.task if not item.startswith(f"{setting}=")]
    arguments = [*overrides, f"{setting}={last}", f"hydra.run.dir={run_dir}"]
    command = " ".join(["python", *map(shlex.quote, [sys.argv[0], *arguments])])
    return f"\nstopped: the training so far is in {last}. Resume with\n  {command}"


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
        ".*ended before the epoch ended and your dataloader is not resumable.*",  # our sampler can resume
        "GPU available but not used.*",  # when the CPU was chosen
        "Checkpoint directory .* exists and is not empty",  # when a run resumes
        "The dirpath has changed from",  # when a run resumes in another directory
    ):
        warnings.filterwarnings("ignore", message)
