"""Sound files that libsndfile does not read, such as a phone's, or whose length it guesses, MP3: decoded by FFmpeg."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np

from asc.errors import InputError, one_line

# FFmpeg's other demuxers read pictures, text, and playlists that name other files
DEMUXERS = (
    "aac,ac3,amr,amrnb,amrwb,ape,asf,au,avi,caf,dts,eac3,flac,flv,loas,matroska,mov,mp3,mpc,mpc8,mpeg,mpegts,ogg,"
    "tta,voc,w64,wav,wv"
)
MARK_SECONDS = 5.0  # between the marks from which `seek` decodes
WARM_UP_SECONDS = 1.0  # before a sample that is sought: a frame depends on those before
TOLERANCE = 0.25  # s that a file may lack of its stated length


class Index(NamedTuple):
    """Length of a sound file, samples, and (time stamp, first sample) of a frame every few seconds."""

    frames: int
    marks: list[tuple[int, int]]


INDEXES: dict[tuple[Path, int, int], Index] = {}  # of the files that this process has decoded: path, time and size


class Media:
    """A sound file for reading, with the methods and attributes of `soundfile.SoundFile`.

    Its length is the number of samples that decoding gives: an MP3's header often has none, or a wrong one.

    Args:
        path: the file.

    Raises:
        InputError: there is no sound in the file, FFmpeg cannot decode it, or it is truncated.
    """

    def __init__(self, path: Path):
        self.path = path
        self.open()
        state = path.stat()
        key = (path, state.st_mtime_ns, state.st_size)
        if key not in INDEXES:
            INDEXES[key] = self.measure()
            self.close()
            self.open()
        self.index = INDEXES[key]
        self.frames = self.index.frames

    def open(self) -> None:
        """Open the file at its first sample."""
        try:
            # file: keeps FFmpeg from taking a part of the name for a protocol
            self.container = av.open(f"file:{self.path}", options={"format_whitelist": DEMUXERS})
        except (av.FFmpegError, OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or one_line(error)
            raise InputError(f"{self.path} is not a sound file: {reason}; replace or remove it") from error
        streams = [stream for stream in self.container.streams.audio if stream.codec_context]
        if not streams:
            raise InputError(f"{self.path} has no sound in a known codec; convert it to WAV or FLAC, or remove it")
        self.stream = streams[0]
        codec = self.stream.codec_context
        codec.thread_count = 1  # files are read in parallel
        self.samplerate, self.channels = codec.sample_rate or 0, codec.channels
        self.format, self.subtype = self.container.format.name.partition(",")[0].upper(), codec.name.upper()
        self.start()

    def start(self) -> None:
        """Decode from here on."""
        self.to_float = av.AudioResampler(format="flt")
        self.decoder, self.pending = self.decode(), np.empty((0, self.channels), np.float32)

    def decode(self) -> Iterator[av.AudioFrame]:
        """The frames in order; damaged packets are skipped, as players do.

        Raises:
            InputError: rate or channels change within the file.
        """
        for packet in self.container.demux(self.stream):
            try:
                frames = packet.decode()
            except av.FFmpegError:
                continue
            for frame in frames:
                if (frame.sample_rate, len(frame.layout.channels)) != (self.samplerate, self.channels):
                    raise InputError(f"{self.path} changes its sample rate or channels; convert it to WAV or FLAC")
                yield frame

    def measure(self) -> Index:
        """Decode the file to its end.

        Raises:
            InputError: nothing is decoded, or less than the file states.
        """
        total, marks = 0, [(0, 0)]
        for frame in self.decoder:
            if frame.pts is not None and total - marks[-1][1] >= MARK_SECONDS * self.samplerate:
                marks.append((frame.pts, total))
            total += frame.samples
        if not total:
            raise InputError(f"{self.path} is not a sound file: nothing in it can be decoded; replace or remove it")
        seconds, stated = total / self.samplerate, self.stated_seconds()
        if seconds < stated - TOLERANCE:
            raise InputError(f"{self.path} is truncated: {seconds:.1f} of {stated:.1f} s; replace or remove it")
        return Index(total, marks)

    def stated_seconds(self) -> float:
        """Length that the file states; 0 if it states none, and FFmpeg estimates it from the bit rate."""
        if self.format == "AAC" or (self.format == "MP3" and not self.stream.start_time):  # no header of Xing or LAME
            return 0.0
        if self.stream.duration and self.stream.time_base:
            return float(self.stream.duration * self.stream.time_base)
        return 0.0 if self.container.streams.video else (self.container.duration or 0) / av.time_base

    def read(self, samples: int, dtype: str = "float32", always_2d: bool = True) -> np.ndarray:
        """The next `samples` of all channels, float32 (samples, channels); fewer at the end of the file."""
        parts: list[np.ndarray] = [self.pending]
        missing = samples - len(self.pending)
        while missing > 0 and (frame := next(self.decoder, None)) is not None:
            parts += [part.to_ndarray().reshape(-1, self.channels) for part in self.to_float.resample(frame)]
            missing -= len(parts[-1])
        wave = np.concatenate(parts)
        self.pending = wave[samples:]
        return wave[:samples]

    def seek(self, sample: int) -> None:
        """Move to this sample."""
        warm_up = round(WARM_UP_SECONDS * self.samplerate)
        stamp, first = max((mark for mark in self.index.marks if mark[1] <= sample - warm_up), default=(0, 0))
        if not first:
            self.close()
            self.open()
        else:  # without opening it again: the demuxer remembers the frames that it has passed
            self.container.seek(stamp, stream=self.stream)
            self.start()
            frame = next((frame for frame in self.decoder if (frame.pts or 0) >= stamp), None)
            if frame is None or frame.pts is None or frame.time_base is None:
                raise InputError(f"{self.path} cannot be decoded from the middle; convert it to WAV or FLAC")
            late = (
                (frame.pts - stamp) * frame.time_base * self.samplerate
            )  # 0 but for time stamps in whole milliseconds
            first += round(late) + frame.samples
        self.read(sample - first)

    def close(self) -> None:
        self.container.close()

    def __enter__(self) -> "Media":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
