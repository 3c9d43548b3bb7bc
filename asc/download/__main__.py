"""Download a dataset and unpack it into a folder to train on: python -m asc.download tau2020_3class DIR.

Interrupted at any time, the same command goes on where it stopped. Nothing is downloaded twice.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import TextIO

from filelock import FileLock, Timeout
from tabulate import tabulate
from tqdm import tqdm

from asc.cli import exit_on_input_error
from asc.download.catalog import Dataset, File, names, read_dataset
from asc.download.folder import Folder
from asc.download.transfer import ResumingDownloader
from asc.errors import InputError, check_number, printable

TERMS = ("title", "content", "page", "licence", "citation")  # fields of a dataset


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m asc.download", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", nargs="?", help=f"{', '.join(names())}, or a .yaml file in their form")
    parser.add_argument("dir", nargs="?", type=Path, help="the folder to create, later data.root")
    parser.add_argument("--list", action="store_true", help="list the datasets")
    parser.add_argument("--dry-run", action="store_true", help="show the terms and the files, download nothing")
    parser.add_argument("--meta-only", action="store_true", help="only lists and documents, no recordings")
    parser.add_argument("--keep-zips", action="store_true", help="keep the archives in DIR/.download")
    parser.add_argument("--mirror", metavar="URL", help="download the files from URL/NAME")
    parser.add_argument("--parallel", type=int, default=4, metavar="N", help="files at a time (4)")
    parser.add_argument("--retries", type=int, default=8, metavar="N", help="attempts after a failure (8)")
    parser.add_argument(
        "--timeout", type=float, default=60, metavar="S", help="seconds to wait for a silent server (60)"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    args = parser.parse_args(argv)
    with exit_on_input_error():
        check_number("--parallel", args.parallel, int, 1, 32)
        check_number("--retries", args.retries, int, 0)
        check_number("--timeout", args.timeout, float, 0.1)
        if args.list:
            print_list(args.json)
            return
        if not args.dataset or not args.dir:
            raise InputError("the dataset or the folder is missing: python -m asc.download DATASET DIR, or --list")
        run(args)


def run(args: argparse.Namespace) -> None:
    """Download a dataset, or show what would be downloaded."""
    messages = sys.stderr if args.json else sys.stdout
    dataset, folder = read_dataset(args.dataset, args.mirror), Folder(args.dir)
    files = [file for file in dataset.files if not (args.meta_only and file.is_audio)]
    missing = folder.missing(files)
    needed, free = folder.space_needed(missing, args.keep_zips, args.parallel), folder.space_free()
    print(terms(dataset), file=messages)
    if args.dry_run:
        rows = [(file.name, size_text(file.size), state(folder, file, missing)) for file in files]
        print(tabulate(rows, tablefmt="plain", colalign=("left", "right", "left")), file=messages)
    print(summary(files, missing, needed, free), file=messages, flush=True)
    if not args.dry_run:
        if needed > free:
            raise InputError(
                f"{folder.root} has {size_text(free)} free and needs {size_text(needed)}: free space first"
            )
        folder.prepare(dataset)
        try:
            with FileLock(folder.state / ".lock", timeout=0):
                fetch_missing(folder, missing, args, messages)
        except Timeout:
            raise InputError(f"{folder.root} is locked by another download: wait for it to finish") from None
        except KeyboardInterrupt:
            command = shlex.join(["python", "-m", "asc.download", *sys.argv[1:]])
            print(f"\nstopped: partial downloads are kept. Resume with\n  {command}", file=sys.stderr)
            sys.exit(130)
        print(next_step(dataset, folder, args.meta_only), file=messages)
    if args.json:
        print(json.dumps(report(dataset, folder, files, needed, free), indent=2))


def fetch_missing(folder: Folder, missing: list[File], args: argparse.Namespace, messages: TextIO) -> None:
    """Download the missing files with a progress bar, and a line for each that is complete or failed.

    Raises:
        InputError: files are still missing.
    """
    failed: list[str] = []
    with tqdm(
        total=sum(file.size or 0 for file in missing) or None,
        initial=sum(folder.arrived(file) for file in missing if file.size),
        desc="download",
        unit="B",
        unit_scale=True,
        disable=None,
        delay=2,
    ) as bar:
        download = ResumingDownloader(
            args.retries, args.timeout, bar.update, lambda text: bar.write(printable(text), file=sys.stderr)
        )
        for file, why in folder.fetch(missing, download, args.parallel, args.keep_zips):
            if why:
                failed.append(file.name)
                download.report(why)
            else:
                bar.write(f"{file.name}  {size_text(file.size)}  complete", file=messages)
    if failed:
        which = ", ".join(failed[:3]) + (", ..." if len(failed) > 3 else "")
        raise InputError(f"{len(failed)} of {len(missing)} files failed ({which}): see above, then run it again")


def terms(dataset: Dataset) -> str:
    """Title, licence and citation, printed before downloading."""
    lines = (dataset.title, dataset.content, dataset.page, f"Licence: {dataset.licence}", f"Cite: {dataset.citation}")
    return "\n".join(fill(printable(line), width=100, subsequent_indent="  ", break_on_hyphens=False) for line in lines)


def state(folder: Folder, file: File, missing: list[File]) -> str:
    """Download progress of a file, and whether it can be verified."""
    arrived = folder.arrived(file)
    text = f"{size_text(arrived)} arrived" if arrived else "to download"
    return (text if file in missing else "complete") + ("" if file.md5 else ", MD5 not known: not checked")


def summary(files: list[File], missing: list[File], needed: int, free: int) -> str:
    """One line about the remaining download and disk space."""
    if not missing:
        return f"all {len(files)} files are complete"
    size = size_text(sum(file.size or 0 for file in missing))
    disk = f"{size_text(needed)} of disk needed, {size_text(free)} free"
    return f"{len(missing)} of {len(files)} files to download, {size}; {disk}"


def next_step(dataset: Dataset, folder: Folder, meta_only: bool) -> str:
    """The next step for the user."""
    if meta_only:
        return f"{folder.root} contains the lists; run again without --meta-only for the recordings"
    command = shlex.join(["python", "train.py", f"data={dataset.data}", f"data.root={folder.root}"])
    return f"{folder.root} is complete. Train on it with\n  {command}"


def report(dataset: Dataset, folder: Folder, files: list[File], needed: int, free: int) -> dict:
    """The result as JSON."""
    missing = folder.missing(files)
    return {
        "dataset": dataset.data,
        **dataset.model_dump(include={*TERMS}),
        "root": str(folder.root),
        "complete": not missing,
        "disk_needed": needed,
        "disk_free": free,
        "files": [
            {"name": file.name, "url": file.url, "bytes": file.size, "md5": file.md5, "complete": file not in missing}
            for file in files
        ],
    }


def print_list(as_json: bool) -> None:
    """The datasets, one per line."""
    datasets = [read_dataset(name) for name in names()]
    if as_json:
        found = {d.data: d.model_dump(include={*TERMS}) | {"bytes": d.size} for d in datasets}
        print(json.dumps(found, indent=2))
    else:
        rows = [(dataset.data, size_text(dataset.size), dataset.content) for dataset in datasets]
        print(tabulate(rows, tablefmt="plain", colalign=("left", "right", "left")))


def size_text(size: int | None) -> str:
    """A number of bytes in readable units."""
    return "?" if size is None else f"{tqdm.format_sizeof(size)}B"


if __name__ == "__main__":
    main(sys.argv[1:])
