"""A trained classifier on recordings of any length or on a stream: from a checkpoint, or from ONNX without torch."""

import json
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeVar

import numpy as np
from pydantic import BaseModel, Field, NonNegativeInt, PositiveInt, ValidationError

from asc.audio import MAX_RATE, MIN_RATE, duration, resample_stream, windows
from asc.errors import InputError, one_line
from asc.session import open_session

PRETRAINED = Path(__file__).parent / "pretrained/model.onnx"  # see the README.md next to it
FRONTEND = "frontend.onnx"  # next to a model.onnx whose input is features
In = TypeVar("In")
Out = TypeVar("Out")


class Classifier(Protocol):
    """A trained classifier: `SceneClassifier` and `OnnxClassifier`.

    Attributes:
        labels: names of the scenes, in the order of the probabilities.
        sample_rate: Hz of the waveforms.
        clip_samples: samples of a waveform.
        min_samples: samples that a file must have at `sample_rate`.
        channel: channel of a file to classify: index from 0, or "mean".
    """

    labels: list[str]
    clip_samples: int
    channel: int | str

    @property
    def sample_rate(self) -> int: ...

    @property
    def min_samples(self) -> int: ...

    def probabilities(self, waves: np.ndarray) -> np.ndarray:
        """Probabilities (batch, n_classes) of waves (batch, clip_samples), mono in [-1, 1], float32."""
        ...


def load_classifier(path: str | Path, trusted: Sequence[str] = (), threads: int | None = None) -> Classifier:
    """Load a checkpoint of any stage, or an ONNX file, which needs no torch.

    Args:
        path: a .ckpt, or a .onnx file whose input is a waveform, or features with frontend.onnx next to it.
        trusted: modules besides asc and torch.optim whose classes a checkpoint may name.
        threads: number for one computation; None: the default of ONNX Runtime or PyTorch. PyTorch's number is set for
            the whole process.

    Raises:
        InputError: the file is missing or contains no classifier.
    """
    if Path(path).suffix.lower() == ".onnx":
        return OnnxClassifier(Path(path), threads)
    import torch

    from asc.classifier import SceneClassifier

    if threads:
        torch.set_num_threads(threads)
    return SceneClassifier.load_from_checkpoint(path, trusted=trusted)


class Metadata(BaseModel):
    """Metadata of the classifier that `asc.export` stores in an ONNX file."""

    labels: list[str] = Field(min_length=2)
    sample_rate: int = Field(ge=MIN_RATE, le=MAX_RATE)
    clip_samples: PositiveInt
    min_samples: PositiveInt
    channel: NonNegativeInt | Literal["mean"]


class OnnxClassifier:
    """A `Classifier` from an ONNX file of `asc.export`, run by ONNX Runtime on the CPU.

    Args:
        path: a file whose input is a waveform, or features if its frontend is next to it.
        threads: number for ONNX Runtime; None: one per core.

    Raises:
        InputError: the file is missing or not from `asc.export`, or onnxruntime is not installed.
    """

    def __init__(self, path: Path, threads: int | None = None):
        self.path = path
        net = open_session(path, threads)
        self.sessions = [net]
        if net.get_inputs()[0].name == "features":
            frontend = path.with_name(FRONTEND)
            if not frontend.is_file():
                raise InputError(
                    f"{path} needs features, but {FRONTEND} is missing next to it: copy it from the run, "
                    "or run python -m asc.export CHECKPOINT --frontend"
                )
            self.sessions.insert(0, open_session(frontend, threads))
        try:
            entries = net.get_modelmeta().custom_metadata_map
            metadata = Metadata.model_validate({name: json.loads(entry) for name, entry in entries.items()})
        except (ValidationError, ValueError) as error:
            raise InputError(f"{path} has no metadata from asc.export: {one_line(error)}; export it again") from error
        self.labels, self.sample_rate = metadata.labels, metadata.sample_rate
        self.channel: int | str = metadata.channel
        self.clip_samples, self.min_samples = metadata.clip_samples, metadata.min_samples
        shapes = [self.sessions[0].get_inputs()[0].shape[1:], net.get_outputs()[0].shape[1:]]
        if len(self.sessions) == 2:
            shapes += [self.sessions[0].get_outputs()[0].shape[1:], net.get_inputs()[0].shape[1:]]
        if shapes[:2] != [[self.clip_samples], [len(self.labels)]] or shapes[2:3] != shapes[3:]:
            raise InputError(f"{path} has shapes {shapes}, unlike its metadata: copy all files from one run")

    def probabilities(self, waves: np.ndarray) -> np.ndarray:
        """Probabilities (batch, n_classes) of waves (batch, clip_samples), mono in [-1, 1], float32.

        Raises:
            InputError: ONNX Runtime reports an error.
        """
        x = waves
        try:
            for session in self.sessions:
                (x,) = session.run(None, {session.get_inputs()[0].name: x})
        except Exception as error:  # onnxruntime's exceptions share no other base
            raise InputError(f"{self.path} failed in ONNX Runtime: {one_line(error)}; export it again") from error
        return x


@dataclass(frozen=True)
class Window:
    """The scene in a part of a recording: from `start` to `end` in seconds, with the probability of each label."""

    start: float
    end: float
    probabilities: np.ndarray


def predict_file(
    classifier: Classifier, path: Path, hop: float | None = None, pool: ThreadPoolExecutor | None = None, ahead: int = 1
) -> Iterator[Window]:
    """Classify the windows of a recording in order; memory does not grow with its length.

    Args:
        classifier: the classifier.
        path: the sound file, of any rate, channels and length.
        hop: seconds from one window to the next; None: no overlap. The last window ends with the file.
        pool: threads that classify windows while the next ones are read; None: one by one in this thread.
        ahead: windows that are read before the first of them is classified.

    Raises:
        InputError: the file is not readable or too short, or a probability is not finite.
    """
    rate, samples, seconds = classifier.sample_rate, classifier.clip_samples, duration(path)

    def classify(part: tuple[int, np.ndarray]) -> Window:
        start, wave = part
        return Window(start / rate, min((start + samples) / rate, seconds), predict_window(classifier, wave))

    parts = windows(path, rate, classifier.channel, samples, hop, shortest=classifier.min_samples)
    yield from map(classify, parts) if pool is None else map_ahead(pool, classify, parts, ahead)


def predict_window(classifier: Classifier, wave: np.ndarray) -> np.ndarray:
    """Probabilities (n_classes,) of wave (clip_samples,).

    Raises:
        InputError: a probability is not finite.
    """
    (probabilities,) = classifier.probabilities(wave[None])
    if not np.isfinite(probabilities).all():
        raise InputError("invalid probabilities: expected finite numbers; check the classifier's weights and the sound")
    return probabilities


def predict_files(
    classifier: Classifier,
    paths: Sequence[Path],
    hop: float | None = None,
    threads: int = 1,
    on_progress: Callable[[Path, float], None] = lambda path, fraction: None,
) -> Generator[tuple[Path, list[Window] | InputError], None, None]:
    """Classify the windows of several recordings, in the order of `paths`; yield the error of an unreadable file.

    Files are read in as many threads as classify, so that neither waits. Larger batches would not be faster: one clip
    fills the processor's caches, and threads that share a computation wait for each other.

    Args:
        classifier: the classifier, which computes on one thread.
        paths: the sound files.
        hop: as in `predict_file`.
        threads: number of threads that classify.
        on_progress: called from the threads with a file and the fraction of it classified since the last call.
    """
    n_readers = max(1, min(threads, len(paths)))
    ahead = max(1, 2 * threads // n_readers)

    def predict(path: Path) -> tuple[Path, list[Window] | InputError]:
        found: list[Window] = []
        try:
            seconds = duration(path)
            for window in predict_file(classifier, path, hop, classifiers, ahead):
                on_progress(path, (window.end - (found[-1].end if found else 0)) / seconds)
                found.append(window)
        except InputError as error:
            return path, error
        return path, found

    # shut down the classifiers first: readers then fail to submit, and stop
    with closing_pool(n_readers) as readers, closing_pool(threads) as classifiers:
        yield from map_ahead(readers, predict, paths, 4 * n_readers)


def predict_stream(classifier: Classifier, pieces: Iterable[np.ndarray], rate: int, hop: float) -> Iterator[Window]:
    """Classify the newest window of an endless stream every `hop` seconds, once there is enough sound for the first.

    Args:
        classifier: the classifier.
        pieces: the waveform in pieces (samples,), float32.
        rate: Hz of the pieces.
        hop: seconds from one window to the next. If several are due after one piece, only the newest is computed,
            so that a slow machine keeps up.

    Raises:
        InputError: a probability is not finite.
    """
    samples, step = classifier.clip_samples, max(1, round(hop * classifier.sample_rate))
    newest, end, due = np.empty(0, np.float32), 0, samples
    for piece in resample_stream(pieces, rate, classifier.sample_rate):
        newest, end = np.concatenate([newest, piece])[-samples:], end + len(piece)
        if end >= due:
            probabilities = predict_window(classifier, newest)
            yield Window((end - samples) / classifier.sample_rate, end / classifier.sample_rate, probabilities)
            due += ((end - due) // step + 1) * step


def map_ahead(
    pool: ThreadPoolExecutor, function: Callable[[In], Out], inputs: Iterable[In], ahead: int
) -> Iterator[Out]:
    """`map` in the threads of a pool, with at most `ahead` results pending."""
    pending: deque[Future[Out]] = deque()
    for item in inputs:
        pending.append(pool.submit(function, item))
        if len(pending) >= ahead:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


@contextmanager
def closing_pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of threads that drops pending jobs when the block ends, as on Ctrl-C."""
    pool = ThreadPoolExecutor(threads)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
