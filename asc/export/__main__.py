"""The command line: python -m asc.export CHECKPOINT [--frontend] [--output FILE]."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from asc.cli import add_trusted_option, exit_on_input_error, silence_libraries
from asc.errors import InputError


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m asc.export", description="Write a checkpoint's classifier as ONNX."
    )
    parser.add_argument("checkpoint", type=Path, help="best.ckpt, pruned.ckpt or int8.ckpt of a run")
    parser.add_argument("--frontend", action="store_true", help="use a waveform as input instead of features")
    parser.add_argument("--output", type=Path, help="output file; by default next to the checkpoint")
    add_trusted_option(parser)
    arguments = parser.parse_args(argv)
    silence_libraries()
    with exit_on_input_error():
        from asc.classifier import SceneClassifier  # imported after --help, since torch takes seconds
        from asc.export import export

        name = "model_with_frontend.onnx" if arguments.frontend else "model.onnx"
        path = arguments.output or arguments.checkpoint.with_name(name)
        if path.is_dir() or not path.parent.is_dir():
            raise InputError(f"invalid --output={path}: expected a file in an existing directory")
        model = SceneClassifier.load_from_checkpoint(arguments.checkpoint, trusted=arguments.trusted)
        export(model, path, arguments.frontend)
        print(f"{path}  {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
