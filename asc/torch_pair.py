"""Import torchaudio, which fails with a torch older than the version it was compiled for."""

from importlib.metadata import PackageNotFoundError, version

from asc.errors import InputError


def installed(package: str) -> str:
    """The installed version of a package, for a message."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "(not installed)"


try:
    import torchaudio as torchaudio
except (ImportError, OSError, RuntimeError) as error:
    raise InputError(
        f"torchaudio {installed('torchaudio')} does not load with torch {installed('torch')} "
        f"({' '.join(str(error).split())}): install a compatible pair: "
        "`pip uninstall -y torch torchaudio && pip install torch==2.14.1 torchaudio==2.11.1`"
    ) from error
