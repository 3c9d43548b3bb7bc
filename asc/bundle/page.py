"""index.html of a bundle: the network in the browser, by ONNX Runtime Web, all in one file.

A page opened from disk may not fetch other files, so that the runtime and the network are part of it, as base64 of
gzip: 14 MB of WebAssembly become 4.9 MB.
"""

import base64
import gzip
import html
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from asc.errors import InputError
from asc.files import regular
from asc.inference import FRONTEND

PACKAGE = "onnxruntime-web"
VERSION = "1.30.0"  # that was tested
SCRIPT, WASM = "dist/ort.wasm.bundle.min.mjs", "dist/ort-wasm-simd-threaded.wasm"
LARGEST = 100_000_000  # bytes of a file of the package
PARTS = Path(__file__).parent / "page"
SOURCES = {"style": "style.css", "page": "page.js", "worker": "worker.js"}
HOW = f"run npm pack {PACKAGE}@{VERSION} and give its file"


@dataclass(frozen=True)
class Runtime:
    """ONNX Runtime Web: its version, its script and its WebAssembly."""

    version: str
    script: bytes
    wasm: bytes


def find_runtime(place: Path | None) -> Runtime:
    """Read ONNX Runtime Web from a folder or npm's archive.

    Args:
        place: the folder of the package, a folder whose node_modules holds it, or the file that ``npm pack`` writes;
            None: node_modules of the current folder, else npm fetches the package.

    Raises:
        InputError: it is not there, not complete, or cannot be fetched.
    """
    if place is None:
        installed = Path("node_modules", PACKAGE)
        return read_folder(installed) if installed.is_dir() else fetch()
    if place.is_dir():
        installed = place / "node_modules" / PACKAGE
        return read_folder(installed if installed.is_dir() else place)
    return read_archive(place)


def fetch() -> Runtime:
    """Read the package that npm fetches from its registry.

    Raises:
        InputError: npm is not installed, or fails.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise InputError(
            f"--web needs {PACKAGE}, which npm fetches, and npm is not installed: install Node.js, "
            f"or give the file of npm pack {PACKAGE}@{VERSION} as --web FILE"
        )
    print(f"npm fetches {PACKAGE} {VERSION}, 33 MB", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [npm, "pack", f"{PACKAGE}@{VERSION}", "--silent"], cwd=folder, capture_output=True, text=True, check=False
        )
        archives = list(Path(folder).glob("*.tgz"))
        if done.returncode or len(archives) != 1:
            why = (done.stderr.strip().splitlines() or ["no file came"])[-1]
            raise InputError(
                f"npm cannot fetch {PACKAGE}@{VERSION} ({why}): check the network, or give it as --web FILE"
            )
        return read_archive(archives[0])


def read_folder(folder: Path) -> Runtime:
    """Read an unpacked package."""

    def read(name: str) -> bytes:
        file = folder / name
        if file.stat().st_size > LARGEST:
            raise ValueError(f"{name} is too large")
        return file.read_bytes()

    return read_package(read, folder)


def read_archive(path: Path) -> Runtime:
    """Read npm's archive, of which only three files are looked at."""
    try:
        with tarfile.open(regular(path)) as archive:

            def read(name: str) -> bytes:
                member = archive.getmember(f"package/{name}")
                if not member.isfile() or member.size > LARGEST:
                    raise ValueError(f"{name} is not a file or too large")
                return archive.extractfile(member).read()  # type: ignore[union-attr]  # it is a file

            return read_package(read, path)
    except (OSError, EOFError, tarfile.TarError) as error:
        raise InputError(f"--web={path} is neither a folder nor an archive of {PACKAGE}: {HOW}") from error


def read_package(read: Callable[[str], bytes], place: Path) -> Runtime:
    """The runtime whose files `read` returns by their names."""
    try:
        about = json.loads(read("package.json"))
        if about["name"] != PACKAGE:
            raise ValueError(about["name"])
        return Runtime(str(about["version"]), read(SCRIPT), read(WASM))
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"--web={place} does not hold {PACKAGE} with {SCRIPT} and {WASM}: {HOW}") from error


def page(folder: Path, settings: dict, labels: list[str], runtime: Runtime) -> str:
    """The page of the model in a bundle's folder.

    Args:
        folder: holds model.onnx and frontend.onnx.
        settings: the content of its frontend.json.
        labels: names of the scenes.
        runtime: which computes the network.
    """
    model, frontend = ((folder / name).read_bytes() for name in ("model.onnx", FRONTEND))
    seconds = settings["clip_samples"] / settings["sample_rate"]
    low, high = band_range(settings)
    about = (
        f"The network takes {seconds:g} s of sound at {settings['sample_rate']:,} Hz and tells {len(labels)} scenes "
        f"apart; longer recordings are cut into windows. model.onnx has {len(model):,} bytes, {FRONTEND} "
        f"{len(frontend):,}."
    )
    texts = {
        "model_size": f"{len(model) / 1024:.0f} KB",
        "highest": f"{high:,.0f} Hz",
        "lowest": f"{low:,.0f} Hz",
        "about": about,
        "version": runtime.version,
    }
    codes = {name: (PARTS / file).read_text("utf-8") for name, file in SOURCES.items()}
    data = {
        "settings": json.dumps({**settings, "labels": labels}).replace("<", "\\u003c"),
        "runtime": packed(runtime.script),
        "wasm": packed(runtime.wasm),
        "frontend": packed(frontend),
        "model": packed(model),
    }
    values = {name: html.escape(text) for name, text in texts.items()} | codes | data
    return re.sub(r"{{(\w+)}}", lambda match: values[match[1]], (PARTS / "index.html").read_text("utf-8"))


def band_range(settings: dict) -> tuple[float, float]:
    """Lowest and highest frequency of the features, Hz."""
    frontend = settings["frontend"]
    if frontend["filterbank"]:
        return frontend["f_min"], frontend["f_max"]
    return 0, settings["sample_rate"] / 2


def packed(content: bytes) -> str:
    """Base64 of gzip, the same for the same content."""
    return base64.b64encode(gzip.compress(content, 9, mtime=0)).decode()
