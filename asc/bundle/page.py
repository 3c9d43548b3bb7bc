"""index.html of a bundle: the network in the browser, by ONNX Runtime Web, all in one file.

A page opened from disk may not fetch other files, so the page contains the runtime and the network, as base64 of gzip:
14 MB of WebAssembly become 4.9 MB.
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
from dataclasses import dataclass
from pathlib import Path

from asc.errors import InputError, one_line
from asc.files import regular
from asc.inference import FRONTEND

PACKAGE = "onnxruntime-web"
VERSION = "1.30.0"  # tested
SCRIPT, WASM = "dist/ort.wasm.bundle.min.mjs", "dist/ort-wasm-simd-threaded.wasm"
PARTS = Path(__file__).parent / "page"
SOURCES = {"style": "style.css", "page": "page.js", "worker": "worker.js"}
REMEDY = f"run npm pack {PACKAGE}@{VERSION} and give its file as --web FILE"


@dataclass(frozen=True)
class Runtime:
    """ONNX Runtime Web: its version, its script and its WebAssembly."""

    version: str
    script: bytes
    wasm: bytes


def find_runtime(place: Path | None) -> Runtime:
    """Read ONNX Runtime Web from a folder or npm's archive.

    Args:
        place: the folder of the package, a folder whose node_modules contains it, or the file that ``npm pack``
            writes; None: node_modules of the current folder, else npm fetches the package.

    Raises:
        InputError: the package is missing, incomplete or cannot be fetched.
    """
    if place is None or place.is_dir():
        folder = place or Path()
        installed = folder / "node_modules" / PACKAGE
        if place or installed.is_dir():
            return read_package(installed if installed.is_dir() else folder, folder)
    with tempfile.TemporaryDirectory() as temporary:
        archive = place or fetch(Path(temporary))
        try:
            with tarfile.open(regular(archive)) as package:
                for name in ("package.json", SCRIPT, WASM):
                    package.extract(f"package/{name}", temporary, filter="data")
        except (OSError, EOFError, KeyError, tarfile.TarError) as error:
            raise InputError(f"--web={archive} cannot be unpacked: {one_line(error)}; {REMEDY}") from error
        return read_package(Path(temporary, "package"), archive)


def fetch(folder: Path) -> Path:
    """Let npm fetch the package's archive into the folder.

    Raises:
        InputError: npm is not installed, or fails.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise InputError(f"--web needs {PACKAGE}, and npm is not installed to fetch it: install Node.js, or {REMEDY}")
    print(f"npm fetches {PACKAGE} {VERSION}, 33 MB", file=sys.stderr)
    command = [npm, "pack", f"{PACKAGE}@{VERSION}", "--silent"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    archives = list(folder.glob("*.tgz"))
    if done.returncode or not archives:
        reason = (done.stderr.strip().splitlines() or ["it wrote no file"])[-1]
        raise InputError(f"npm cannot fetch {PACKAGE}@{VERSION}: {reason}; check the network, or {REMEDY}")
    return archives[0]


def read_package(folder: Path, place: Path) -> Runtime:
    """Read the unpacked package; errors name `place`.

    Raises:
        InputError: the folder has no such package.
    """
    try:
        about = json.loads((folder / "package.json").read_bytes())
        if about["name"] != PACKAGE:
            raise ValueError(f"its name is {about['name']}")
        return Runtime(str(about["version"]), (folder / SCRIPT).read_bytes(), (folder / WASM).read_bytes())
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"invalid --web={place}: expected {PACKAGE} with {SCRIPT} and {WASM}; {REMEDY}") from error


def page(folder: Path, settings: dict, labels: list[str], runtime: Runtime) -> str:
    """The page for the model in a bundle's folder.

    Args:
        folder: contains model.onnx and frontend.onnx.
        settings: the content of its frontend.json.
        labels: names of the scenes.
        runtime: computes the network.
    """
    model, frontend = ((folder / name).read_bytes() for name in ("model.onnx", FRONTEND))
    seconds = settings["clip_samples"] / settings["sample_rate"]
    bands = settings["frontend"]
    low, high = (bands["f_min"], bands["f_max"]) if bands["filterbank"] else (0, settings["sample_rate"] / 2)
    about = (
        f"The network takes {seconds:g} s of sound at {settings['sample_rate']:,} Hz and distinguishes {len(labels)} "
        f"scenes; longer recordings are cut into windows. model.onnx has {len(model):,} bytes, {FRONTEND} "
        f"{len(frontend):,}."
    )
    texts = {
        "model_size": f"{len(model) / 1024:.0f} KB",
        "highest": f"{high:,.0f} Hz",
        "lowest": f"{low:,.0f} Hz",
        "about": about,
        "version": runtime.version,
    }
    data = {"runtime": runtime.script, "wasm": runtime.wasm, "frontend": frontend, "model": model}
    values = {name: html.escape(text) for name, text in texts.items()}
    values |= {name: (PARTS / file).read_text("utf-8") for name, file in SOURCES.items()}
    values |= {name: packed(content) for name, content in data.items()}
    values["settings"] = json.dumps({**settings, "labels": labels}).replace("<", "\\u003c")
    return re.sub(r"{{(\w+)}}", lambda match: values[match[1]], (PARTS / "index.html").read_text("utf-8"))


def packed(content: bytes) -> str:
    """Base64 of gzip, the same for the same content."""
    return base64.b64encode(gzip.compress(content, 9, mtime=0)).decode()
