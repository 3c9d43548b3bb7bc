"""index.html of a bundle: the network in the browser, by ONNX Runtime Web, all in one file.

A page opened from disk may not fetch other files, so the page contains the runtime and the network, as base64 of gzip:
14 MB of WebAssembly become 4.9 MB.
"""

import base64
import gzip
import html
import json
import re
import tarfile
import tempfile
from pathlib import Path
from typing import NamedTuple

from pooch import retrieve

from asc.errors import InputError, one_line
from asc.files import regular
from asc.inference import FRONTEND

PACKAGE = "onnxruntime-web"
URL = f"https://registry.npmjs.org/{PACKAGE}/-/{PACKAGE}-1.30.0.tgz"  # 33 MB; the version that is tested
SHA256 = "d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71"
SCRIPT, WASM = "dist/ort.wasm.bundle.min.mjs", "dist/ort-wasm-simd-threaded.wasm"
PARTS = Path(__file__).parent / "page"
SOURCES = {"style": "style.css", "page": "page.js", "worker": "worker.js"}


class Runtime(NamedTuple):
    """ONNX Runtime Web: its version, its script and its WebAssembly."""

    version: str
    script: bytes
    wasm: bytes


def find_runtime(place: Path | None) -> Runtime:
    """Read ONNX Runtime Web from a folder or npm's archive.

    Args:
        place: the folder of the package, a folder whose node_modules contains it, or the .tgz file that ``npm pack``
            writes; None: node_modules of the current folder, else it is downloaded.

    Raises:
        InputError: the package is missing, incomplete or cannot be downloaded.
    """
    installed = (place or Path()) / "node_modules" / PACKAGE
    with tempfile.TemporaryDirectory() as temporary:
        try:
            folder = installed if installed.is_dir() else place or Path(retrieve(URL, SHA256, path=temporary))
            if not folder.is_dir():
                with tarfile.open(regular(folder)) as archive:
                    for name in ("package.json", SCRIPT, WASM):
                        archive.extract(f"package/{name}", temporary, filter="data")
                folder = Path(temporary, "package")
            about = json.loads((folder / "package.json").read_bytes())
            if about["name"] != PACKAGE:
                raise ValueError(f"its name is {about['name']}")
            return Runtime(str(about["version"]), (folder / SCRIPT).read_bytes(), (folder / WASM).read_bytes())
        except (OSError, EOFError, KeyError, TypeError, ValueError, tarfile.TarError) as error:
            what = f"invalid --web={place}: expected {PACKAGE}" if place else f"{PACKAGE} cannot be downloaded"
            raise InputError(f"{what}: {one_line(error)}; download {URL} and give it as --web FILE") from error


def page(folder: Path, settings: dict, labels: list[str], runtime: Runtime) -> str:
    """The page for the model in a bundle's folder, with the content of its frontend.json and labels.txt."""
    model, frontend = ((folder / name).read_bytes() for name in ("model.onnx", FRONTEND))
    rate, bands = settings["sample_rate"], settings["frontend"]
    low, high = (bands["f_min"], bands["f_max"]) if bands["filterbank"] else (0, rate / 2)
    texts = {
        "model_size": f"{len(model) / 1024:.0f} KB",
        "highest": f"{high:,.0f} Hz",
        "lowest": f"{low:,.0f} Hz",
        "about": f"The network takes {settings['clip_samples'] / rate:g} s of sound at {rate:,} Hz and distinguishes "
        f"{len(labels)} scenes; longer recordings are cut into windows. model.onnx has {len(model):,} bytes, "
        f"{FRONTEND} {len(frontend):,}.",
        "version": runtime.version,
    }
    data = {"runtime": runtime.script, "wasm": runtime.wasm, "frontend": frontend, "model": model}
    values = {name: html.escape(text) for name, text in texts.items()}
    values |= {name: (PARTS / file).read_text("utf-8") for name, file in SOURCES.items()}
    values |= {name: base64.b64encode(gzip.compress(part, 9, mtime=0)).decode() for name, part in data.items()}
    values["settings"] = json.dumps({**settings, "labels": labels}).replace("<", "\\u003c")
    return re.sub(r"{{(\w+)}}", lambda match: values[match[1]], (PARTS / "index.html").read_text("utf-8"))
