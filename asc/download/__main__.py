"""Download a dataset and unpack it into a folder to train on: python -m asc.download tau2020_3class DIR.

Interrupted at any time, the same command goes on where it stopped. Nothing is downloaded twice.
"""

import argparse
import json
import shlex
import shutil
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path

from filelock import FileLock, Timeout
from tabulate import tabulate
from tqdm import tqdm

from asc.cli import exit_on_input_error
from asc.data.lists import shorten
from asc.download.catalog import File, names, read_dataset
from asc.download.transfer import PARALLEL, ResumingDownloader, fetch, is_complete, size_of
from asc.errors import InputError, check_number, printable
from asc.files import atomic_write

GROWTH = 1.25  # ratio of a folder's size to its archives': 1.17 for 24-bit stereo, 1.12 for mono


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
    parser.add_argument("--retries", type=int, default=8, metavar="N", help="attempts after a failure (8)")
    parser.add_argument("--timeout", type=float, default=60, metavar="S", help="seconds to wait for a server (60)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    args = parser.parse_args(argv)
    with exit_on_input_error():
        check_number("--retries", args.retries, int, 0)
        check_number("--timeout", args.timeout, float, 0.1)
        if args.list:
            datasets = [read_dataset(name) for name in names()]
            found = {d.data: d.model_dump(exclude={"data", "sources"}) | {"bytes": total(d.files)} for d in datasets}
            rows = [(name, size_text(terms["bytes"]), terms["content"]) for name, terms in found.items()]
            print(json.dumps(found, indent=2) if args.json else tabulate(rows, tablefmt="plain"))
        elif args.dataset and args.dir:
            run(args)
        else:
            raise InputError("the dataset or the folder is missing: python -m asc.download DATASET DIR, or --list")


def run(args: argparse.Namespace) -> None:
    """Download a dataset, or show what would be downloaded."""
    dataset, root = read_dataset(args.dataset), args.dir
    files = [file for file in dataset.files if not (args.meta_only and ".audio." in file.name)]
    missing = [file for file in files if not is_complete(root, file)]
    with redirect_stdout(sys.stderr if args.json else sys.stdout):
        terms = dataset.title, dataset.content, dataset.page, f"Licence: {dataset.licence}", f"Cite: {dataset.citation}"
        print(*map(printable, terms), sep="\n")
        if args.dry_run:
            rows = [(f.name, size_text(f.bytes), "to download" if f in missing else "complete") for f in files]
            print(tabulate(rows, tablefmt="plain"))
        download(root, dataset.files[0].name, missing, args)
        if not args.dry_run:
            command = dataset.use.format(data=dataset.data, root=shlex.quote(str(root)))
            print(f"{root} has the lists" if args.meta_only else f"{root} is complete. Use it with\n  {command}")
    if args.json:
        found = [asdict(file) | {"complete": is_complete(root, file)} for file in files]
        result = {"dataset": dataset.data, "root": str(root), "complete": all(file["complete"] for file in found)}
        print(json.dumps(result | dataset.model_dump(exclude={"data", "sources"}) | {"files": found}, indent=2))


def download(root: Path, origin: str, missing: list[File], args: argparse.Namespace) -> None:
    """Download the missing files into `root`, a new folder or that of the dataset whose first file is `origin`.

    Raises:
        InputError: the disk is too small, the folder contains something else, another process downloads into it, or
            files are still missing.
    """
    state, failed = root / ".download", []
    here = sum(size_of(state / file.name) or size_of(state / f"{file.name}.part") for file in missing)
    needed = int(total(missing) * GROWTH) - here + sum(sorted(file.bytes or 0 for file in missing)[-PARALLEL:])
    free = shutil.disk_usage(next(path for path in (root.absolute(), *root.absolute().parents) if path.exists())).free
    sizes = f"{size_text(total(missing))}; {size_text(max(needed, 0))} of disk needed, {size_text(free)} free"
    print(f"{len(missing)} files to download, {sizes}", flush=True)
    if args.dry_run:
        return
    if needed > free:
        raise InputError(f"{root} has {size_text(free)} free and needs {size_text(needed)}: free space first")
    owner = state / ".dataset"
    if owner.read_text() != origin if owner.exists() else not state.exists() and any(root.glob("*")):
        raise InputError(f"{root} contains other data: choose another folder")
    state.mkdir(parents=True, exist_ok=True)
    with atomic_write(owner) as temporary:
        temporary.write_text(origin)
    try:
        with (
            FileLock(state / ".lock", timeout=0),
            tqdm(None, "download/unpack", total(missing), initial=here, unit="B", unit_scale=True, disable=None) as bar,
        ):
            for file, why in fetch(root, missing, ResumingDownloader(args.retries, args.timeout, bar.update)):
                failed += [file.name] if why else []
                tqdm.write(printable(why) if why else f"{file.name}  complete", file=sys.stderr if why else None)
    except Timeout:
        raise InputError(f"{root} is locked by another download: wait for it to finish") from None
    if failed:
        raise InputError(f"{len(failed)} of {len(missing)} files failed ({shorten(failed)}): run it again")


def total(files: Sequence[File]) -> int:
    """Bytes of all files whose size is known."""
    return sum(file.bytes or 0 for file in files)


def size_text(size: int | None) -> str:
    """A number of bytes in readable units."""
    return "?" if size is None else f"{tqdm.format_sizeof(size)}B"


if __name__ == "__main__":
    main(sys.argv[1:])
