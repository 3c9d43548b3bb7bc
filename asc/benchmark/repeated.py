"""A dataset of any size in the TAU layout, made of a few recordings of noise."""

from pathlib import Path

import numpy as np
import soundfile

LABELS = ("indoor", "outdoor", "transportation")
RATE, SECONDS = 48000, 10
TRAIN = 9185 / 13370  # fraction in TAU Urban Acoustic Scenes 2020 3Class


def write_repeated(root: Path, clips: int, recordings: int = 6) -> Path:
    """Write the dataset; clips are symbolic links to the recordings, 48 kHz, stereo and 24 bits as in TAU.

    A recording is a location; the first half of them is for training. Their number is a multiple of 6.
    """
    (root / "audio").mkdir(parents=True)
    (root / "evaluation_setup").mkdir()
    rng = np.random.default_rng(0)
    for number in range(recordings):
        wave = 0.05 * rng.standard_normal((RATE * SECONDS, 2))
        soundfile.write(root / f"recording-{number}.wav", wave, RATE, subtype="PCM_24")
    meta, train, test = (["filename\tscene_label" + more] for more in ("\tidentifier", "", ""))
    for number in range(clips):
        label, is_train = LABELS[number % len(LABELS)], number < TRAIN * clips
        location = number % (recordings // 2) + (0 if is_train else recordings // 2)
        name = f"audio/{label}-oslo-{location}-{number}-a.wav"
        (root / name).symlink_to(root / f"recording-{location}.wav")
        meta.append(f"{name}\t{label}\toslo-{location}")
        (train if is_train else test).append(f"{name}\t{label}")
    for file, rows in (
        ("meta", meta),
        ("evaluation_setup/fold1_train", train),
        ("evaluation_setup/fold1_evaluate", test),
    ):
        (root / f"{file}.csv").write_text("\n".join(rows) + "\n")
    return root
