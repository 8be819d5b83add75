"""Enhancing one audio file into another of the same rate, channels, format and length, in constant memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from kdse.audio.opening import blocks, open_audio
from kdse.audio.resampling import ResampleStream
from kdse.deploy.chunks import CrossFade, WholeSignal
from kdse.deploy.mix import Mix
from kdse.deploy.writing import write_like
from kdse.errors import UserError
from kdse.models.base import SpeechModel
from kdse.models.streaming import Streamer, can_stream, check_samples

if TYPE_CHECKING:
    from soundfile import SoundFile


class Stage(Protocol):
    """One step of the chain: takes ``[C, n]`` pieces, returns what is ready; `flush` ends the signal."""

    def push(self, samples: Tensor) -> Tensor: ...

    def flush(self) -> Tensor: ...


@dataclass(frozen=True)
class Enhanced:
    """What was done to a file.

    method: "whole" (one forward pass), "streamed" (hops, equal to whole) or "cross-faded" (differs from whole).
    clipped: samples that left [-1, 1] and were clipped, in formats that cannot hold them.
    """

    seconds: float
    sample_rate_hz: int
    channels: int
    method: str
    clipped: int


def enhance_file(
    model: SpeechModel,
    source: Path,
    target: Path,
    chunk_seconds: float = 30.0,
    whole_file: bool = False,
    progress: Callable[[float], Any] | None = None,
    stream: bool = False,
    mix: float = 0.0,
) -> Enhanced:
    """Enhances ``source`` into ``target``, which appears only once it is complete; its folder is made.

    The audio is resampled to the model's rate and back where they differ; each channel is processed on its own.

    Args:
        model: the network.
        source: an audio file that libsndfile reads.
        target: the result.
        chunk_seconds: longer files are streamed by causal models and cross-faded in pieces of this length by others.
        whole_file: process any length in one forward pass.
        progress: called with the seconds of audio just read.
        stream: process any length in blocks of hops.
        mix: share of the noisy input in the result, see `Mix`.

    Raises:
        AudioError: naming the file, if it is empty, cut short or unreadable, or holds NaN or infinite samples.
        ValueError: if such samples are in the result, or the model does not stream where that is asked for.
        OSError: if the target cannot be written.
    """
    with open_audio(source) as reader:
        rate, channels = reader.samplerate, reader.channels
        method, stage = choose_stage(model, reader.frames / rate, channels, chunk_seconds, whole_file, stream)
        written, clipped = 0, 0
        can_clip = reader.subtype not in ("FLOAT", "DOUBLE")
        with write_like(reader, target) as write:
            for piece in enhance_pieces(model, stage, rate, channels, _blocks(reader, source, progress), mix):
                if can_clip:
                    clipped += int((piece.abs() > 1).sum())
                    piece = piece.clamp(-1, 1)
                write(piece)
                written += piece.shape[1]
    return Enhanced(written / rate, rate, channels, method, clipped)


def choose_stage(
    model: SpeechModel, seconds: float, channels: int, chunk_seconds: float, whole_file: bool, stream: bool = False
) -> tuple[str, Stage]:
    """How a file of this length is processed: the method's name and the stage that does it."""
    if stream:
        return "streamed", Streamer(model, channels)
    chunk = max(2, round(chunk_seconds * model.sample_rate_hz))
    if whole_file or seconds * model.sample_rate_hz <= chunk:
        return "whole", WholeSignal(model)
    if can_stream(model):
        return "streamed", Streamer(model, channels)
    return "cross-faded", CrossFade(model, chunk, max(1, min(model.sample_rate_hz, chunk // 4)))


def enhance_pieces(
    model: SpeechModel, stage: Stage, rate_hz: int, channels: int, pieces: Iterator[Tensor], mix: float
) -> Iterator[Tensor]:
    """Enhances pieces ``[C, n]`` of a signal at any rate; as many samples come out as went in.

    Args:
        stage: runs the model, at its rate.
        mix: share of the noisy input in the result, see `Mix`.

    Raises:
        ValueError: if the model returns NaN or infinite samples.
    """
    blend, due = Mix(mix), 0

    def heard() -> Iterator[Tensor]:
        nonlocal due
        for piece in blend.hear(pieces):
            due += piece.shape[1]
            yield piece

    there = ResampleStream(rate_hz, model.sample_rate_hz, channels)
    back = ResampleStream(model.sample_rate_hz, rate_hz, channels)
    for piece in _run_chain([there, stage, back], heard()):
        piece = piece[:, :due]  # (resampling back rounds the length up)
        due -= piece.shape[1]
        if not torch.isfinite(piece).all():
            raise UserError(f"{type(model).__name__} returned NaN or infinite samples")
        yield blend.blend(piece)


def _run_chain(stages: list[Stage], pieces: Iterator[Tensor]) -> Iterator[Tensor]:
    """Pushes pieces through the stages and yields what comes out, flushing them in order at the end."""
    for piece in pieces:
        for stage in stages:
            piece = stage.push(piece).cpu()
        yield piece
    for index, stage in enumerate(stages):
        piece = stage.flush().cpu()
        for later in stages[index + 1 :]:
            piece = later.push(piece).cpu()
        yield piece


def _blocks(reader: SoundFile, source: Path, progress: Callable[[float], Any] | None) -> Iterator[Tensor]:
    """The file's samples ``[C, n]``, a few seconds at a time, checked."""
    rate, position = reader.samplerate, 0
    for block in blocks(reader, source):
        samples = torch.from_numpy(np.ascontiguousarray(block.T))
        check_samples(samples, position, rate)
        position += len(block)
        yield samples
        if progress is not None:
            progress(len(block) / rate)
