"""Time and memory of a bundle's example, in a process without asc: python trial.py FOLDER CLIP ROUNDS prints JSON."""

import json
import re
import runpy
import sys
import time
from pathlib import Path
from statistics import median


def peak_memory() -> int | None:
    """Peak memory of this program in bytes; None where the system does not tell.

    getrusage would count what the parent process held when it started this one.
    """
    try:
        return 1024 * int(re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[0])
    except (OSError, IndexError):  # no Linux
        return None


def main(folder: str, clip: str, rounds: str) -> None:
    """Classify the clip so many times, and once before."""
    example = runpy.run_path(str(Path(folder, "example.py")))
    libraries = peak_memory()
    classifier = example["Classifier"](Path(folder))
    seconds = []
    for _ in range(1 + int(rounds)):
        start = time.perf_counter()
        classifier.classify(clip)
        seconds.append(time.perf_counter() - start)
    print(json.dumps({"seconds": median(seconds[1:]), "memory": peak_memory(), "libraries": libraries}))


if __name__ == "__main__":
    main(*sys.argv[1:])
