"""Predict the scene in recordings or at the microphone: python -m asc.predict [CHECKPOINT] PATH..."""

import argparse
import io
import os
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path

from tqdm import tqdm

from asc.cli import add_trusted_option, exit_on_input_error, silence_libraries
from asc.errors import InputError, check_number, printable
from asc.inference import PRETRAINED, Classifier, load_classifier, predict_files, predict_stream
from asc.predict.output import check_picture, clock, plot_timeline, print_head, print_windows
from asc.predict.sources import find_sound_files, microphone, spooled

BAR = "{percentage:3.0f}% |{bar}| {elapsed} passed, {remaining} left"
EPILOG = """\
CHECKPOINT is a .ckpt or model.onnx of a run; without one, a demonstration distinguishes indoor, outdoor and
transportation (asc/pretrained/README.md).

A PATH is a sound file (WAV, FLAC, MP3, M4A...) of any rate, channels and length; a folder, which is searched
with all its folders; a pattern such as 'day*/**/*.flac'; or - for standard input. Put -- before names that begin with
a dash. A recording longer than the training clips is classified window by window; the prediction is their mean.

Exit status: 0 if all files were classified, 1 if not, 2 for wrong arguments, 130 on Ctrl-C; but 0 with --microphone,
which Ctrl-C ends as intended."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m asc.predict",
        usage="%(prog)s [CHECKPOINT] PATH... [options]\n       %(prog)s [CHECKPOINT] --microphone [options]",
        description="Predict the scene in recordings or at the microphone.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("path", nargs="*", metavar="PATH", help="files, folders, patterns, or -")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", dest="form", action="store_const", const="json", help="print a line of JSON a file")
    form.add_argument("--csv", dest="form", action="store_const", const="csv", help="print a row of CSV a window")
    parser.add_argument("--hop", type=float, metavar="SECONDS", help="from one window to the next; default: no overlap")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="plot the timeline of one recording")
    parser.add_argument("--microphone", action="store_true", help="listen until Ctrl-C; --hop is 1 s by default")
    parser.add_argument("--channel", metavar="N", help="index from 0, or mean; default: as in training")
    cores = os.cpu_count() or 1
    parser.add_argument("--threads", type=int, metavar="N", default=cores, help="default: one for each processor core")
    add_trusted_option(parser)
    parser.set_defaults(form="table")
    arguments = parser.parse_intermixed_args(argv)
    has_checkpoint = bool(arguments.path) and Path(arguments.path[0]).suffix.lower() in (".ckpt", ".onnx")
    checkpoint = arguments.path.pop(0) if has_checkpoint else PRETRAINED
    if bool(arguments.path) == arguments.microphone:
        parser.error("give PATHs or --microphone, not both" if arguments.path else "give a PATH, or --microphone")
    if arguments.microphone and arguments.picture:
        parser.error("--picture needs a PATH: the microphone records without end")
    silence_libraries()
    with exit_on_input_error():
        if arguments.path and Path(arguments.path[0], "results.json").is_file():
            run = arguments.path[0]
            raise InputError(f"{run} is a run: give its network, such as {run}/int8.ckpt or {run}/model.onnx")
        if arguments.hop is not None:
            check_number("--hop", arguments.hop, float, 0.001, 1e6)
        check_number("--threads", arguments.threads, int, 1, 1000)
        channel = arguments.channel
        if channel not in (None, "mean") and not (channel.isascii() and channel.isdigit()):
            raise InputError(f"invalid --channel={channel}: expected an index from 0, or mean")
        classifier = load_classifier(checkpoint, arguments.trusted, threads=1)
        if channel is not None:
            classifier.channel = channel if channel == "mean" else int(channel)
        if arguments.form == "csv" and isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")  # file names keep their bytes
        if not has_checkpoint:
            print("no CHECKPOINT: using the demonstration network, see asc/pretrained/README.md", file=sys.stderr)
        if arguments.microphone:
            follow_microphone(classifier, arguments.form, arguments.hop or 1.0)
        elif not predict(classifier, arguments):
            sys.exit(1)


def predict(classifier: Classifier, arguments: argparse.Namespace) -> bool:
    """Print the prediction for each file, in the order of the paths; return whether all files were classified."""
    with ExitStack() as stack:
        files, all_found = find(arguments.path, stack)
        if arguments.picture and len(files) != 1:
            raise InputError(f"invalid --picture={arguments.picture} for {len(files)} recordings: expected one")
        if arguments.picture:
            check_picture(arguments.picture)
        bar = stack.enter_context(tqdm(total=len(files), bar_format=BAR, disable=None, delay=2, leave=False))
        start = time.perf_counter()
        seconds: list[float] = []
        jobs = (list(files), arguments.hop, arguments.threads)
        predictions = predict_files(classifier, *jobs, lambda _, part: bar.update(part))
        stack.enter_context(closing(predictions))  # stops the threads on Ctrl-C
        for path, windows in predictions:
            with bar.external_write_mode(sys.stdout):
                if isinstance(windows, InputError):
                    print("error:", printable(str(windows).replace(str(path), files[path])), file=sys.stderr)
                    continue
                if not seconds:
                    print_head(arguments.form, classifier.labels)
                print_windows(arguments.form, classifier.labels, files[path], windows)
            seconds.append(windows[-1].end)
            if arguments.picture:
                plot_timeline(files[path], windows, classifier.labels, arguments.picture)
        passed = time.perf_counter() - start
    if len(seconds) > 1:
        rate = f"{len(seconds) / passed:.1f} files a second"
        print(f"{len(seconds)} files, {clock(sum(seconds))} of sound, in {passed:.1f} s: {rate}", file=sys.stderr)
    return all_found and len(seconds) == len(files)


def find(words: Sequence[str], stack: ExitStack) -> tuple[dict[Path, str], bool]:
    """The files that the arguments name, each once, with their names to print; and whether each argument names any.

    Standard input becomes a temporary file, which `stack` removes.
    """
    files: dict[Path, str] = {}
    all_found = True
    for word in dict.fromkeys(words):
        try:
            if word == "-":
                files[stack.enter_context(spooled(sys.stdin.buffer))] = "standard input"
            else:
                files.update({path: str(path) for path in find_sound_files(word)})
        except InputError as error:
            print("error:", printable(str(error)), file=sys.stderr)
            all_found = False
    return files, all_found


def follow_microphone(classifier: Classifier, form: str, hop: float) -> None:
    """Print the prediction for the newest window every `hop` seconds, until Ctrl-C."""
    name, rate, pieces = microphone(classifier.channel)
    wait = classifier.clip_samples / classifier.sample_rate
    print(f"listening to {printable(name)}; first prediction after {wait:g} s, Ctrl-C stops", file=sys.stderr)
    with closing(pieces), suppress(KeyboardInterrupt):
        print_head(form, classifier.labels)
        for window in predict_stream(classifier, pieces, rate, hop):
            print_windows(form, classifier.labels, None, [window])


if __name__ == "__main__":
    main()
