"""torchaudio, which does not load with a torch older than the one that it was compiled for."""

from importlib.metadata import version

from asc.errors import InputError

try:
    import torchaudio as torchaudio
except (ImportError, OSError) as error:
    raise InputError(
        f"torchaudio {version('torchaudio')} does not load with torch {version('torch')} ({error}): "
        "install a pair that does, `pip uninstall -y torch torchaudio && pip install torch==2.14.1 torchaudio==2.11.1`"
    ) from error
