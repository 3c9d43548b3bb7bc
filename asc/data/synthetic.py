"""A small synthetic dataset in the layout of TAU Urban Acoustic Scenes 2020 3Class.

The class shows in changes within half a second, not in the average spectrum. Indoor sounds keep their pitch and
reverberate, outdoor sounds fall in pitch and stop dead, sounds in vehicles rise in pitch. Every class has low, middle
and high voices, and each location has its own colour, level, noise and bustle, so the mean and standard deviation of
each band say little.
"""

import errno
import io
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from filelock import FileLock
from scipy.fft import irfft, rfft, rfftfreq
from scipy.signal.windows import tukey

from asc.data.datamodule import SceneData
from asc.errors import InputError, WriteError

SAMPLE_RATE = 44100  # Hz
NOTE = "SYNTHETIC.txt"  # marks the folder as synthetic
CITIES = ("arden", "belmont", "corvo", "delfin", "elmira")  # none is in TAU


@dataclass(frozen=True)
class Scene:
    """The sound events of one kind of scene.

    Attributes:
        label: class of the scene.
        pitch: Hz, mean fundamental frequency of the voices.
        harmonics: number in each voice: many for engines and speech, few for chimes and birds.
        duration: s, of one voice.
        glide: change of pitch, octaves per second.
        clicks: bursts in a knock: 1 for a step, 2 for a pair of wheels over a rail joint.
        reverberation: s, reverberation time RT60.
    """

    label: str
    pitch: float
    harmonics: int
    duration: float
    glide: float
    clicks: int
    reverberation: float


SCENES = {
    "airport": Scene("indoor", 700, 3, 0.35, 0, 1, 1.6),  # chimes
    "shopping_mall": Scene("indoor", 250, 8, 0.25, 0, 1, 1.0),  # chatter
    "metro_station": Scene("indoor", 1800, 2, 0.30, 0, 1, 2.0),  # beeping doors
    "street_pedestrian": Scene("outdoor", 450, 5, 0.35, -2.5, 1, 0.05),  # calls
    "public_square": Scene("outdoor", 1000, 3, 0.30, -3, 1, 0.1),  # swifts
    "street_traffic": Scene("outdoor", 250, 8, 0.45, -2, 1, 0.05),  # passing vehicles
    "park": Scene("outdoor", 1800, 2, 0.25, -3, 1, 0.05),  # birds
    "bus": Scene("transportation", 250, 8, 0.45, 2, 1, 0.1),  # an engine changing gears
    "tram": Scene("transportation", 1800, 2, 0.30, 3, 2, 0.1),  # a whining motor
    "metro": Scene("transportation", 700, 3, 0.35, 2.5, 2, 0.1),  # an inverter
}


@dataclass(frozen=True)
class Location:
    """What distinguishes a location from others of the same scene.

    Attributes:
        pitch: factor on the pitch of the scene.
        bustle: voices per second, and knocks per second.
        tilt: spectral tilt of the noise, whose magnitude is proportional to frequency ** -tilt.
        colour: frequency response of location and microphone, dB at octaves from 20 Hz up.
        level: root mean square of a clip, dB full scale.
    """

    pitch: float
    bustle: float
    tilt: float
    colour: np.ndarray
    level: float


def draw_location(rng: np.random.Generator) -> Location:
    """Draw a location; the ranges are the same for all scenes, so that they carry no class information."""
    return Location(
        pitch=2 ** rng.uniform(-0.5, 0.5),
        bustle=rng.uniform(0.6, 1.8),
        tilt=rng.uniform(0.3, 0.9),
        colour=rng.normal(0, 4, 11),
        level=rng.uniform(-42, -30),
    )


def voice(scene: Scene, pitch: float, rng: np.random.Generator) -> np.ndarray:
    """One voice of a scene (samples,): gliding harmonics whose fundamental is `pitch` Hz at mid-length."""
    duration = scene.duration * rng.uniform(0.7, 1.4)
    time = np.arange(int(duration * SAMPLE_RATE)) / SAMPLE_RATE
    octaves = scene.glide * rng.uniform(0.8, 1.25) * (time - duration / 2)
    phase = (2 * np.pi * np.cumsum(pitch * 2**octaves) / SAMPLE_RATE).astype(np.float32)  # float32 sines are fast
    stack = [np.sin(k * phase + rng.uniform(0, 2 * np.pi)) / k for k in range(1, scene.harmonics + 1)]
    return np.sum(stack, axis=0) * tukey(len(time), 0.3)


def knock(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Steps, or wheels over a joint (samples,): noise bursts 0.12 s apart that decay with a 20 ms time constant."""
    time = np.arange(int(0.12 * SAMPLE_RATE)) / SAMPLE_RATE
    return np.concatenate([rng.normal(size=len(time)) * np.exp(-time / 0.02) for _ in range(scene.clicks)])


def events(scene: Scene, location: Location, samples: int, rng: np.random.Generator) -> np.ndarray:
    """Voices and knocks of a clip (samples,) at random times; they wrap around at the end."""
    wave = np.zeros(samples, np.float32)
    count = 1 + rng.poisson(location.bustle * samples / SAMPLE_RATE)
    pitches = scene.pitch * location.pitch * 2 ** rng.uniform(-0.5, 0.5, count)
    sounds = [voice(scene, pitch, rng) for pitch in pitches] + [knock(scene, rng) for _ in range(count)]
    for sound in sounds:
        at = (rng.integers(samples) + np.arange(len(sound))) % samples
        wave[at] += sound * 10 ** (rng.uniform(-8, 5) / 20)
    return wave


def room(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Impulse response (samples,) of length RT60: the direct sound, then noise that decays by 60 dB."""
    echo = rng.standard_normal(int(scene.reverberation * SAMPLE_RATE), np.float32)
    echo *= np.logspace(0, -3, len(echo), dtype=np.float32)
    echo *= 0.7 / np.linalg.norm(echo)
    echo[0] = 1
    return echo


def clip(scene: Scene, location: Location, samples: int, rng: np.random.Generator) -> np.ndarray:
    """One clip (samples,), float32 in [-1, 1]: reverberant events plus noise, coloured by the location."""
    octave = np.log2(rfftfreq(samples, 1 / SAMPLE_RATE).clip(20) / 20).astype(np.float32)  # above 20 Hz, for each bin
    white = rng.standard_normal(2 * len(octave), np.float32).view(np.complex64)  # spectrum of white noise
    noise = white * np.exp2(-location.tilt * octave)
    noise *= 0.3 * samples / np.sqrt(2 * np.vdot(noise, noise).real)  # root mean square 0.3, by Parseval
    sounds = rfft(events(scene, location, samples, rng)) * rfft(room(scene, rng), samples)
    colour = np.interp(octave, np.arange(len(location.colour)), 10 ** (location.colour / 20)).astype(np.float32)
    wave = irfft((noise + sounds) * colour, samples)
    return np.clip(wave / np.sqrt(np.mean(wave**2)) * 10 ** (location.level / 20), -1, 1)


def write_table(path: Path, rows: Sequence[tuple[str, ...]]) -> None:
    """Write rows, the header first, as tab-separated text with LF line endings."""
    path.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="ascii", newline="\n")


def write_flac(path: Path, wave: np.ndarray) -> None:
    """Write a waveform (samples,) as FLAC, encoded in memory: libsndfile does not always report a full disk."""
    encoded = io.BytesIO()
    soundfile.write(encoded, wave, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    path.write_bytes(encoded.getbuffer())


def write_dataset(
    root: Path, seed: int, train_locations: int, test_locations: int, segments: int, samples: int
) -> None:
    """Write audio and lists into the new folder `root`; each clip has its own random generator."""
    (root / "audio").mkdir(parents=True)
    (root / "evaluation_setup").mkdir()
    (root / NOTE).write_text("Made by a program. Delete this folder at any time.\n")
    meta = [("filename", "scene_label", "identifier", "source_label")]
    train, evaluate = [("filename", "scene_label")], [("filename", "scene_label")]
    locations = train_locations + test_locations
    for number, (name, scene) in enumerate(SCENES.items()):
        for site in range(locations):
            location = draw_location(np.random.default_rng([seed, number, site]))
            identifier = f"{CITIES[site % len(CITIES)]}-{number * locations + site}"
            for segment in range(segments):
                filename = f"audio/{name}-{identifier}-{segment}-a.flac"
                wave = clip(scene, location, samples, np.random.default_rng([seed, number, site, segment]))
                write_flac(root / filename, wave)
                meta.append((filename, scene.label, identifier, "a"))
                (train if site < train_locations else evaluate).append((filename, scene.label))
    write_table(root / "meta.csv", meta)
    write_table(root / "evaluation_setup/fold1_train.csv", train)
    write_table(root / "evaluation_setup/fold1_evaluate.csv", evaluate)
    write_table(root / "evaluation_setup/fold1_test.csv", [row[:1] for row in evaluate])


def write_scenes(
    root: Path,
    seed: int = 0,
    train_locations: int = 5,
    test_locations: int = 3,
    segments: int = 2,
    seconds: float = 10.0,
) -> None:
    """Generate the dataset, unless `root` already contains it.

    The same arguments give the same bytes. The folder is created atomically, even if the run is killed or another
    process writes it at the same time.

    Args:
        root: dataset folder, such as `TAU-urban-acoustic-scenes-2020-3class-development`.
        seed: random seed.
        train_locations: number of training locations for each of the ten scenes.
        test_locations: number of test locations for each scene.
        segments: number of clips for each location.
        seconds: length of a clip.
    """
    if (root / NOTE).exists():
        return
    if (root / "meta.csv").exists():
        raise InputError(f"data.root={root} contains recordings that are not synthetic: set data=dcase to use them")
    new, samples = root.with_name(f".{root.name}.tmp"), int(seconds * SAMPLE_RATE)
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(root.with_name(f".{root.name}.lock")) as lock:  # other processes wait
            try:
                if not (root / NOTE).exists():
                    shutil.rmtree(new, ignore_errors=True)  # left by a killed process
                    write_dataset(new, seed, train_locations, test_locations, segments, samples)
                    os.replace(new, root)
            finally:
                shutil.rmtree(new, ignore_errors=True)
                Path(lock.lock_file).unlink(missing_ok=True)
    except OSError as error:
        if root.exists() and error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise InputError(f"data.root={root} exists without scenes: remove it or choose another") from error
        why = error.strerror or error
        raise WriteError(f"data.root={root} cannot be written ({why}): free space or choose another") from error


class SyntheticScenes(SceneData):
    """The synthetic dataset, generated in `root` on first use and read like any other."""

    def prepare_data(self) -> None:
        write_scenes(self.root)
