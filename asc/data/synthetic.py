"""A small synthetic dataset in the layout of TAU Urban Acoustic Scenes 2020 3Class.

The class shows in changes within half a second, not in the average spectrum. Indoor sounds keep their pitch and
reverberate, outdoor sounds fall in pitch and stop dead, sounds in vehicles rise in pitch. Every class has low, middle
and high voices, and each location has its own colour, level, noise and bustle, so the mean and standard deviation of
each band say little.
"""

import io
import os
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from filelock import FileLock
from scipy.fft import irfft, rfft, rfftfreq
from scipy.signal.windows import tukey
from tqdm import tqdm

from asc.data.datamodule import SceneData
from asc.errors import InputError, WriteError

SAMPLE_RATE = 44100  # Hz
NOTE = "SYNTHETIC.txt"  # marks the folder as synthetic
CITIES = ("arden", "belmont", "corvo", "delfin", "elmira")  # none is in TAU


class Scene(NamedTuple):
    """The sound events of one kind of scene."""

    label: str  # class of the scene
    pitch: float  # Hz, mean fundamental frequency of the voices
    harmonics: int  # of each voice: many for engines and speech, few for chimes and birds
    duration: float  # s, of one voice
    glide: float  # change of pitch, octaves per second
    clicks: int  # bursts in a knock: 1 for a step, 2 for a pair of wheels over a rail joint
    reverberation: float  # s, reverberation time RT60


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


class Location(NamedTuple):
    """What distinguishes a location from others of the same scene."""

    pitch: float  # factor on the pitch of the scene
    bustle: float  # voices per second, and knocks per second
    tilt: float  # spectral tilt of the noise, whose magnitude is proportional to frequency ** -tilt
    colour: np.ndarray  # frequency response of location and microphone, dB at octaves from 20 Hz up
    level: float  # root mean square of a clip, dB full scale


def draw_location(rng: np.random.Generator) -> Location:
    """Draw a location; the ranges are the same for all scenes, so that they carry no class information."""
    pitch = 2 ** rng.uniform(-0.5, 0.5)
    bustle, tilt = rng.uniform(0.6, 1.8), rng.uniform(0.3, 0.9)
    return Location(pitch, bustle, tilt, colour=rng.normal(0, 4, 11), level=rng.uniform(-42, -30))


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


def write_flac(path: Path, wave: np.ndarray) -> None:
    """Write a waveform (samples,) as FLAC, encoded in memory: libsndfile does not always report a full disk."""
    encoded = io.BytesIO()
    soundfile.write(encoded, wave, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    path.write_bytes(encoded.getbuffer())


def write_dataset(
    root: Path, seed: int, train_locations: int, test_locations: int, segments: int, seconds: float
) -> None:
    """Write audio and lists into the new folder `root`; each clip has its own random generator."""
    (root / "audio").mkdir(parents=True)
    (root / "evaluation_setup").mkdir()
    (root / NOTE).write_text("Made by a program. Delete this folder at any time.\n")
    meta = ["filename\tscene_label\tidentifier\tsource_label"]
    train, evaluate = ["filename\tscene_label"], ["filename\tscene_label"]
    locations = train_locations + test_locations
    for number, (name, scene) in enumerate(tqdm(SCENES.items(), "generating scenes", leave=False, disable=None)):
        for site in range(locations):
            location = draw_location(np.random.default_rng([seed, number, site]))
            identifier = f"{CITIES[site % len(CITIES)]}-{number * locations + site}"
            for segment in range(segments):
                filename = f"audio/{name}-{identifier}-{segment}-a.flac"
                rng = np.random.default_rng([seed, number, site, segment])
                write_flac(root / filename, clip(scene, location, int(seconds * SAMPLE_RATE), rng))
                meta.append(f"{filename}\t{scene.label}\t{identifier}\ta")
                (train if site < train_locations else evaluate).append(f"{filename}\t{scene.label}")
    test = [row.partition("\t")[0] for row in evaluate]
    for table, rows in (("meta", meta), ("train", train), ("evaluate", evaluate), ("test", test)):
        name = "meta.csv" if table == "meta" else f"evaluation_setup/fold1_{table}.csv"
        (root / name).write_text("\n".join([*rows, ""]), encoding="ascii", newline="\n")


def write_scenes(
    root: Path,
    seed: int = 0,
    train_locations: int = 5,
    test_locations: int = 3,
    segments: int = 2,
    seconds: float = 10.0,
) -> None:
    """Generate the dataset, unless `root` already contains it; the same arguments give the same bytes.

    The folder is created atomically, even if the run is killed or another process writes it at the same time.

    Args:
        root: dataset folder, such as `TAU-urban-acoustic-scenes-2020-3class-development`.
        seed: random seed.
        train_locations: number of training locations for each of the ten scenes.
        test_locations: number of test locations for each scene.
        segments: number of clips for each location.
        seconds: length of a clip.

    Raises:
        InputError: the folder contains something else.
        WriteError: it cannot be written.
    """
    if root.exists() and any(root.iterdir()):
        if (root / NOTE).exists():
            return
        raise InputError(f"data.root={root} contains other data: set data=dcase to use them, or choose another folder")
    new = root.with_name(f".{root.name}.tmp")
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(root.with_name(f".{root.name}.lock")):  # other processes wait
            try:
                if not (root / NOTE).exists():
                    shutil.rmtree(new, ignore_errors=True)  # left by a killed process
                    write_dataset(new, seed, train_locations, test_locations, segments, seconds)
                    os.replace(new, root)
            finally:
                shutil.rmtree(new, ignore_errors=True)
    except OSError as error:
        why = error.strerror or error
        raise WriteError(f"data.root={root} cannot be written ({why}): free space or choose another") from error


class SyntheticScenes(SceneData):
    """The synthetic dataset, generated in `root` on first use and read like any other."""

    def prepare_data(self) -> None:
        write_scenes(self.root)
