"""Raw PCM through a model as it arrives: from one file descriptor to another, hop by hop."""

from __future__ import annotations

import math
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kdse.audio.opening import AudioError
from kdse.audio.resampling import ResampleStream
from kdse.deploy.files import enhance_file, enhance_pieces
from kdse.errors import UserError, printable
from kdse.models.base import SpeechModel
from kdse.models.streaming import Streamer, check_samples

#: Sample formats, named as ffmpeg names them: numpy's type, and the number that stands for full scale.
FORMATS = {"s16le": ("<i2", 32768), "f32le": ("<f4", 1)}

#: First bytes of files that are no raw samples. (An MP3 file without tags begins with what may be a sample.)
HEADERS = {
    b"RIFF": "WAV", b"RF64": "WAV", b"riff": "W64", b"fLaC": "FLAC", b"OggS": "Ogg", b"FORM": "AIFF", b"caff": "CAF",
    b".snd": "AU", b"NIST": "NIST", b"ID3\x02": "MP3", b"ID3\x03": "MP3", b"ID3\x04": "MP3",
}  # fmt: skip


class HasHeader(UserError):
    """The input is no raw audio but a file. kind: of it. begun: its bytes that were read already."""

    def __init__(self, message: str, kind: str = "", begun: bytes = b"") -> None:
        super().__init__(message)
        self.kind, self.begun = kind, begun


@dataclass(frozen=True)
class Pcm:
    """Interleaved raw samples: their format, rate and channels.

    Raises:
        ValueError: naming the flag, if a value makes no sense.
    """

    sample_format: str = "s16le"
    rate_hz: int = 16000
    channels: int = 1

    def __post_init__(self) -> None:
        if self.sample_format not in FORMATS:
            raise UserError(f"--format {self.sample_format}: use {' or '.join(FORMATS)}")
        if not 1000 <= self.rate_hz <= 768_000:
            raise UserError(f"--rate {self.rate_hz}: must lie between 1000 and 768000 Hz")
        if not 1 <= self.channels <= 64:
            raise UserError(f"--channels {self.channels}: must lie between 1 and 64")

    @property
    def frame_bytes(self) -> int:
        """Bytes of one sample of all channels."""
        return np.dtype(FORMATS[self.sample_format][0]).itemsize * self.channels

    def decode(self, raw: bytes) -> Tensor:
        """Whole frames to samples ``[C, n]``, full scale 1."""
        kind, scale = FORMATS[self.sample_format]
        with np.errstate(invalid="ignore"):
            samples = np.frombuffer(raw, dtype=kind).astype(np.float32) / np.float32(scale)
        return torch.from_numpy(np.ascontiguousarray(samples.reshape(-1, self.channels).T))

    def encode(self, samples: Tensor) -> tuple[bytes, int]:
        """Samples ``[C, n]`` to bytes, rounded, and how many had to be clipped (none in f32le)."""
        kind, scale = FORMATS[self.sample_format]
        values = samples.t().contiguous().numpy()
        if scale == 1:
            return values.astype(kind).tobytes(), 0
        values = np.rint(values * np.float32(scale))
        kept = np.clip(values, -scale, scale - 1)
        # (full scale itself is one step too many for an integer and costs nothing to clip)
        return kept.astype(kind).tobytes(), int((np.abs(values) > scale).sum())


@dataclass(frozen=True)
class Streamed:
    """What went through.

    seconds: of audio written.
    clipped: samples beyond full scale.
    stray_bytes: bytes at the end of the input that are no whole sample frame, left out.
    end: "input" (it ended), "interrupted" (Ctrl-C) or "output" (its reader went away).
    """

    seconds: float
    clipped: int
    stray_bytes: int
    end: str


def latency_seconds(model: SpeechModel, rate_hz: int) -> tuple[float, float]:
    """How late a sample can come out, compute time aside: of the model, and of resampling to its rate and back."""
    there, back = ResampleStream(rate_hz, model.sample_rate_hz), ResampleStream(model.sample_rate_hz, rate_hz)
    return model.latency_samples / model.sample_rate_hz, there.delay_seconds + back.delay_seconds


def enhance_pcm(model: SpeechModel, source: int, sink: int, pcm: Pcm, mix: float = 0.0) -> Streamed:
    """Enhances raw samples from one file descriptor to another as they arrive.

    Reads what is there, at most one hop at a time, and writes at once what a hop makes ready. The output is as long
    as the input and aligned with it. At the end of the input, and on Ctrl-C (a second one raises), what the model
    still holds is written.

    Args:
        model: a model that streams.
        source, sink: open file descriptors.
        pcm: what the bytes are, on both sides.
        mix: share of the noisy input in the result.

    Raises:
        HasHeader: if the input is a file, before anything is written (see `enhance_container`).
        ValueError: if the model does not stream, or either side holds NaN or infinite samples.
        OSError: if the output cannot be written, other than because its reader went away.
    """
    stage = Streamer(model, pcm.channels)
    hop = math.ceil(model.hop_samples * pcm.rate_hz / model.sample_rate_hz)
    written, clipped = 0, 0
    with _Reader(source, pcm, hop) as reader:
        try:
            for piece in enhance_pieces(model, stage, pcm.rate_hz, pcm.channels, reader.pieces(), mix):
                raw, beyond = pcm.encode(piece)
                _write(sink, raw)
                written += piece.shape[1]
                clipped += beyond
            end = "interrupted" if reader.interrupted else "input"
        except BrokenPipeError:
            end = "output"
    return Streamed(written / pcm.rate_hz, clipped, reader.stray_bytes, end)


def enhance_container(model: SpeechModel, found: HasHeader, source: int, sink: int, mix: float = 0.0) -> Streamed:
    """Enhances a file that comes through a pipe into one of the same format; it is read to its end first.

    Args:
        model, source, sink, mix: as of `enhance_pcm`.
        found: what that said of the file.

    Raises:
        ValueError: if it cannot be read (see `enhance_file`).
        OSError: as `enhance_pcm`.
    """
    name = f"the input (a {found.kind} file)"
    with tempfile.TemporaryDirectory(prefix="kdse-pipe-") as folder:
        heard, made = Path(folder, "heard"), Path(folder, "made")
        with open(heard, "wb") as file, open(source, "rb", closefd=False) as rest:
            file.write(found.begun)
            shutil.copyfileobj(rest, file)
        try:
            done = enhance_file(model, heard, made, mix=mix)
        except AudioError as error:
            raise UserError(str(error).replace(printable(heard), name)) from None
        try:
            with open(made, "rb") as file:
                while raw := file.read(1 << 16):
                    _write(sink, raw)
        except BrokenPipeError:
            return Streamed(done.seconds, done.clipped, 0, "output")
    return Streamed(done.seconds, done.clipped, 0, "input")


class _Reader:
    """Pieces ``[C, n]`` of at most a hop, as they arrive, until the input or the user ends it.

    Within its context the first Ctrl-C ends the input, so that what was heard is still written; a second one raises.
    """

    def __init__(self, source: int, pcm: Pcm, hop: int) -> None:
        self._source, self._pcm = source, pcm
        self._bytes = hop * pcm.frame_bytes
        self._waiting = False  # for a read, which only an exception can end
        self.interrupted = False
        self.received = 0
        self.stray_bytes = 0

    def __enter__(self) -> _Reader:
        main = threading.current_thread() is threading.main_thread()  # (no other one gets signals)
        self._handler = signal.signal(signal.SIGINT, self._note) if main else None
        return self

    def __exit__(self, *error: object) -> None:
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)

    def _note(self, number: int, frame: object) -> None:
        again, self.interrupted = self.interrupted, True
        if again or self._waiting:
            raise KeyboardInterrupt

    def pieces(self) -> Iterator[Tensor]:
        rest, begun, ended = b"", False, False
        while not ended:
            raw = self._read(self._bytes - len(rest))
            rest, ended = rest + raw, not raw
            if len(rest) < 4 and not begun and not ended:
                continue
            if not begun and (kind := HEADERS.get(rest[:4])):
                raise HasHeader(
                    f"the input is a {kind} file; give raw samples (ffmpeg -i FILE -f {self._pcm.sample_format} -), or "
                    "the file's name",
                    kind,
                    rest,
                )
            begun = True
            self.stray_bytes = len(rest) % self._pcm.frame_bytes
            whole = len(rest) - self.stray_bytes
            if whole:
                yield self._samples(rest[:whole])
                rest = rest[whole:]

    def _samples(self, raw: bytes) -> Tensor:
        samples = self._pcm.decode(raw)
        try:
            check_samples(samples, self.received, self._pcm.rate_hz)
        except ValueError as error:
            raise UserError(f"the input {error}; is it {self._pcm.sample_format}?") from None
        self.received += samples.shape[1]
        return samples

    def _read(self, size: int) -> bytes:
        try:
            self._waiting = True
            return b"" if self.interrupted else os.read(self._source, size)
        except KeyboardInterrupt:
            return b""
        except OSError as error:
            raise UserError(f"the input could not be read ({error.strerror or error})") from None
        finally:
            self._waiting = False


def _write(sink: int, raw: bytes) -> None:
    view = memoryview(raw)
    while view:
        view = view[os.write(sink, view) :]
