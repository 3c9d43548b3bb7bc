"""Listen to recordings or a microphone: the scene in each window, by a classifier in torch or in ONNX Runtime."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from asc.errors import InputError
from asc.sound import duration, rate_ratio, resample, windows

In = TypeVar("In")
Out = TypeVar("Out")


class Predictor(Protocol):
    """A trained classifier: `SceneClassifier` and `asc.onnx_predictor.OnnxPredictor`.

    Attributes:
        labels: names of the scenes, in the order of the probabilities.
        sample_rate: Hz of the waveforms.
        clip_samples: samples of a waveform.
        min_samples: samples that a file must have at `sample_rate`.
        channel: channel of a file to listen to: index from 0, or "mean".
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


@dataclass(frozen=True)
class Window:
    """The scene in a part of a recording: from `start` to `end` in seconds, with the probability of each label."""

    start: float
    end: float
    probabilities: np.ndarray


def listen(
    predictor: Predictor, path: Path, hop: float | None = None, pool: ThreadPoolExecutor | None = None, ahead: int = 1
) -> Iterator[Window]:
    """The windows of a recording in order; memory does not grow with its length.

    Args:
        predictor: the classifier.
        path: the sound file, of any rate, channels and length.
        hop: seconds from one window to the next; None: no overlap. The last window ends with the file.
        pool: threads that classify windows while the next ones are read; None: one after the other in this thread.
        ahead: windows that are read before the first of them is classified.

    Raises:
        InputError: the file is not readable or too short, or the classifier's weights are damaged.
    """
    rate, samples, seconds = predictor.sample_rate, predictor.clip_samples, duration(path)

    def classify(part: tuple[int, np.ndarray]) -> Window:
        start, wave = part
        (probabilities,) = predictor.probabilities(wave[None])
        if not np.isfinite(probabilities).all():
            raise InputError(f"the classifier answers {path} with NaN: its weights are damaged, use another checkpoint")
        return Window(start / rate, min((start + samples) / rate, seconds), probabilities)

    parts = windows(path, rate, predictor.channel, samples, hop, shortest=predictor.min_samples)
    yield from map(classify, parts) if pool is None else map_ahead(pool, classify, parts, ahead)


def listen_to_all(
    predictor: Predictor,
    paths: Sequence[Path],
    hop: float | None = None,
    threads: int = 1,
    on_progress: Callable[[Path, float], None] = lambda path, fraction: None,
) -> Generator[tuple[Path, list[Window] | InputError], None, None]:
    """The windows of several recordings, in the order of `paths`; of an unreadable file, its error instead.

    Files are read in as many threads as classify, so that neither waits. Larger batches would not be faster: one clip
    fills the processor's caches, and threads that share a computation wait for each other.

    Args:
        predictor: the classifier, which computes on one thread.
        paths: the sound files.
        hop: as in `listen`.
        threads: number of threads that classify.
        on_progress: is called from the threads with a file and the fraction of it heard since the last call.
    """
    together = max(1, min(threads, len(paths)))  # files read at a time
    ahead = max(1, 2 * threads // together)

    def hear(path: Path) -> tuple[Path, list[Window] | InputError]:
        heard: list[Window] = []
        try:
            seconds = duration(path)
            for window in listen(predictor, path, hop, classifiers, ahead):
                on_progress(path, (window.end - (heard[-1].end if heard else 0)) / seconds)
                heard.append(window)
        except InputError as error:
            return path, error
        return path, heard

    # the pool of classifiers closes first: then a reader has nobody to hand its windows to, and ends too
    with closing_pool(together) as readers, closing_pool(threads) as classifiers:
        yield from map_ahead(readers, hear, paths, 4 * together)


def listen_live(predictor: Predictor, pieces: Iterable[np.ndarray], rate: int, hop: float) -> Iterator[Window]:
    """The newest window of an endless stream, every `hop` seconds once there is enough sound for the first one.

    Args:
        predictor: the classifier.
        pieces: the waveform in pieces (samples,), float32.
        rate: Hz of the pieces.
        hop: seconds from one window to the next. Of several that are due after one piece only the newest is computed,
            so that a slow machine does not fall behind.

    Raises:
        InputError: the answer is not a number.
    """
    ratio, samples = rate_ratio(rate, predictor.sample_rate), predictor.clip_samples
    step = max(1, round(hop * predictor.sample_rate))
    newest, end, due = np.empty(0, np.float32), 0, samples
    for piece in resample(iter(pieces), ratio.denominator, ratio.numerator):
        newest, end = np.concatenate([newest, piece])[-samples:], end + len(piece)
        if end >= due:
            (probabilities,) = predictor.probabilities(newest[None])
            if not np.isfinite(probabilities).all():
                raise InputError("the sound holds NaN, or the classifier's weights do: check device and checkpoint")
            yield Window((end - samples) / predictor.sample_rate, end / predictor.sample_rate, probabilities)
            due += ((end - due) // step + 1) * step


def map_ahead(
    pool: ThreadPoolExecutor, function: Callable[[In], Out], inputs: Iterable[In], ahead: int
) -> Iterator[Out]:
    """`map` in the threads of a pool, which takes at most `ahead` inputs before the first of their results is used."""
    pending: deque[Future[Out]] = deque()
    for item in inputs:
        pending.append(pool.submit(function, item))
        if len(pending) >= ahead:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


@contextmanager
def closing_pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of threads that drops the jobs which have not begun when the block ends, as on Ctrl-C."""
    pool = ThreadPoolExecutor(threads)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
