"""What commands have written, read to its end."""

import json
from pathlib import Path

import onnxruntime
from command import rows

from asc.loading import read_checkpoint


def check_whole(directory: Path) -> None:
    """Read all that a run has written but Hydra's own and the log."""
    for path in directory.rglob("*"):
        parts = path.relative_to(directory).parts
        if path.is_file() and not any(part.startswith(".") or part == "tensorboard" for part in parts):
            check_file(path)


def check_file(path: Path) -> None:
    """Read a file to its end."""
    match path.suffix:
        case ".ckpt":
            read_checkpoint(path)
        case ".json":
            json.loads(path.read_text())
        case ".csv":
            assert all(None not in row.values() for row in rows(path))
        case ".onnx":
            onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        case ".png":
            assert path.read_bytes().endswith(b"IEND\xaeB`\x82")
        case ".html":
            assert path.read_text().rstrip().endswith("</html>")
        case _:
            raise AssertionError(f"what is {path}?")
