"""A small set of made-up acoustic scenes, in the layout of TAU Urban Acoustic Scenes 2020 3Class.

The class lies in what happens within half a second, not in the average spectrum: sounds indoors keep their pitch and
ring on, sounds outdoors fall in pitch as they pass and die at once, sounds in vehicles rise in pitch as they
accelerate. Low, middle and high voices are in every class, and each location has its own colour, level, noise and
bustle, so the mean and deviation of each band say little.
"""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from scipy.fft import irfft, rfft, rfftfreq
from scipy.signal.windows import tukey

from asc.data.datamodule import SceneData
from asc.errors import InputError

SAMPLE_RATE = 44100  # Hz
NOTE = "SYNTHETIC.txt"  # tells these scenes from recordings
CITIES = ("arden", "belmont", "corvo", "delfin", "elmira")  # none of the real dataset's


@dataclass(frozen=True)
class Scene:
    """What is heard in one kind of place.

    Attributes:
        label: its class.
        pitch: Hz, middle of the voices' fundamentals.
        harmonics: of each voice: many for engines and speech, few for chimes and birds.
        duration: s, of one voice.
        glide: octaves a second, the change of pitch.
        clicks: knocks in a row: 1 for a step, 2 for a pair of wheels over a rail joint.
        reverberation: s, until the echoes are 60 dB down.
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
    "metro_station": Scene("indoor", 1800, 2, 0.30, 0, 1, 2.0),  # doors that beep
    "street_pedestrian": Scene("outdoor", 450, 5, 0.35, -2.5, 1, 0.05),  # calls
    "public_square": Scene("outdoor", 1000, 3, 0.30, -3, 1, 0.1),  # swifts
    "street_traffic": Scene("outdoor", 250, 8, 0.45, -2, 1, 0.05),  # vehicles that pass
    "park": Scene("outdoor", 1800, 2, 0.25, -3, 1, 0.05),  # birds
    "bus": Scene("transportation", 250, 8, 0.45, 2, 1, 0.1),  # an engine in its gears
    "tram": Scene("transportation", 1800, 2, 0.30, 3, 2, 0.1),  # a whining motor
    "metro": Scene("transportation", 700, 3, 0.35, 2.5, 2, 0.1),  # an inverter
}


@dataclass(frozen=True)
class Location:
    """What sets one place apart from others of its kind.

    Attributes:
        pitch: factor on the pitch of its scene.
        bustle: voices a second, and knocks.
        tilt: exponent of the noise: its magnitude goes as frequency ** -tilt.
        colour: dB at octaves from 20 Hz up, of everything: the place and the microphone.
        level: dB full scale, root mean square of a clip.
    """

    pitch: float
    bustle: float
    tilt: float
    colour: np.ndarray
    level: float


def draw_location(rng: np.random.Generator) -> Location:
    """A location; every scene draws from the same ranges, so that none of this tells the class."""
    return Location(
        pitch=2 ** rng.uniform(-0.5, 0.5),
        bustle=rng.uniform(0.6, 1.8),
        tilt=rng.uniform(0.3, 0.9),
        colour=rng.normal(0, 4, 11),
        level=rng.uniform(-42, -30),
    )


def voice(scene: Scene, pitch: float, rng: np.random.Generator) -> np.ndarray:
    """One sound of a scene (samples,): a stack of harmonics that glides, half-way through `pitch` in Hz."""
    duration = scene.duration * rng.uniform(0.7, 1.4)
    time = np.arange(int(duration * SAMPLE_RATE)) / SAMPLE_RATE
    octaves = scene.glide * rng.uniform(0.8, 1.25) * (time - duration / 2)
    phase = (2 * np.pi * np.cumsum(pitch * 2**octaves) / SAMPLE_RATE).astype(np.float32)  # float32 sines are fast
    stack = [np.sin(k * phase + rng.uniform(0, 2 * np.pi)) / k for k in range(1, scene.harmonics + 1)]
    return np.sum(stack, axis=0) * tukey(len(time), 0.3)


def knock(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Steps, or wheels over a joint (samples,): bursts of noise 0.12 s apart that die within some 20 ms."""
    time = np.arange(int(0.12 * SAMPLE_RATE)) / SAMPLE_RATE
    return np.concatenate([rng.normal(size=len(time)) * np.exp(-time / 0.02) for _ in range(scene.clicks)])


def events(scene: Scene, location: Location, samples: int, rng: np.random.Generator) -> np.ndarray:
    """Voices and knocks of a clip (samples,), at random instants; what runs over the end goes on at the beginning."""
    wave = np.zeros(samples, np.float32)
    count = 1 + rng.poisson(location.bustle * samples / SAMPLE_RATE)
    pitches = scene.pitch * location.pitch * 2 ** rng.uniform(-0.5, 0.5, count)
    sounds = [voice(scene, pitch, rng) for pitch in pitches] + [knock(scene, rng) for _ in range(count)]
    for sound in sounds:
        at = (rng.integers(samples) + np.arange(len(sound))) % samples
        wave[at] += sound * 10 ** (rng.uniform(-8, 5) / 20)
    return wave


def room(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Impulse response (samples,), as long as the reverberation: the sound itself, then noise that falls by 60 dB."""
    echo = rng.standard_normal(int(scene.reverberation * SAMPLE_RATE), np.float32)
    echo *= np.logspace(0, -3, len(echo), dtype=np.float32)
    echo *= 0.7 / np.linalg.norm(echo)
    echo[0] = 1
    return echo


def clip(scene: Scene, location: Location, samples: int, rng: np.random.Generator) -> np.ndarray:
    """One recording (samples,), float32 in [-1, 1]: sounds in their room over noise, coloured by the location."""
    octave = np.log2(rfftfreq(samples, 1 / SAMPLE_RATE).clip(20) / 20).astype(np.float32)  # of each bin, above 20 Hz
    white = rng.standard_normal(2 * len(octave), np.float32).view(np.complex64)  # as white noise transforms to
    noise = white * np.exp2(-location.tilt * octave)
    noise *= 0.3 * samples / np.sqrt(2 * np.vdot(noise, noise).real)  # root mean square 0.3, by Parseval
    sounds = rfft(events(scene, location, samples, rng)) * rfft(room(scene, rng), samples)
    colour = np.interp(octave, np.arange(len(location.colour)), 10 ** (location.colour / 20)).astype(np.float32)
    wave = irfft((noise + sounds) * colour, samples)
    return np.clip(wave / np.sqrt(np.mean(wave**2)) * 10 ** (location.level / 20), -1, 1)


def write_table(path: Path, rows: Sequence[tuple[str, ...]]) -> None:
    """Rows, the header first, as tab separated text with LF."""
    path.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="ascii", newline="\n")


def write_dataset(
    root: Path, seed: int, train_locations: int, test_locations: int, segments: int, samples: int
) -> None:
    """Audio and tables into the new folder `root`; each clip has a random generator of its own."""
    (root / "audio").mkdir(parents=True)
    (root / "evaluation_setup").mkdir()
    (root / NOTE).write_text("Made by a program. Delete this folder at any time.\n")
    meta = [("filename", "scene_label", "identifier", "source_label")]
    train, evaluate = [("filename", "scene_label")], [("filename", "scene_label")]
    locations = train_locations + test_locations
    for number, (name, scene) in enumerate(SCENES.items()):
        for place in range(locations):
            location = draw_location(np.random.default_rng([seed, number, place]))
            identifier = f"{CITIES[place % len(CITIES)]}-{number * locations + place}"
            for segment in range(segments):
                filename = f"audio/{name}-{identifier}-{segment}-a.flac"
                wave = clip(scene, location, samples, np.random.default_rng([seed, number, place, segment]))
                soundfile.write(root / filename, wave, SAMPLE_RATE, subtype="PCM_16")
                meta.append((filename, scene.label, identifier, "a"))
                (train if place < train_locations else evaluate).append((filename, scene.label))
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
    """Make the scenes, once: where `root` already holds a dataset, nothing changes.

    The same arguments give the same bytes. The set appears at `root` whole or not at all, also when the run is killed
    or another makes it at the same time.

    Args:
        root: folder of the dataset, as `TAU-urban-acoustic-scenes-2020-3class-development` is.
        seed: of everything random.
        train_locations: number of places of each of the ten scenes to learn from.
        test_locations: number of other places of each, to test on.
        segments: number of clips of each place.
        seconds: length of a clip.
    """
    if (root / NOTE).exists():
        return
    if (root / "meta.csv").exists():
        raise InputError(f"data.root={root} holds recordings that are not synthetic: read them by data=dcase")
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.parent, prefix=f".{root.name}-") as temporary:
        new = Path(temporary) / root.name
        write_dataset(new, seed, train_locations, test_locations, segments, int(seconds * SAMPLE_RATE))
        try:
            os.replace(new, root)
        except OSError as error:
            if not (root / NOTE).exists():  # else another run was faster, with the same scenes
                raise InputError(f"data.root={root} is there and holds no scenes: remove it or name another") from error


class SyntheticScenes(SceneData):
    """The embedded scenes, made in `root` when they are first asked for, and read like any other dataset."""

    def prepare_data(self) -> None:
        """Make the scenes, unless they are there."""
        write_scenes(self.root)
