"""A recorded teacher's files: found by the names of the recordings, and aligned with them in time and level."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from kdse.audio.files import read
from kdse.data.corpus.corpora import Corpus, of_files, scan
from kdse.data.file_pairs import stem
from kdse.errors import UserError, some

log = logging.getLogger(__name__)

#: Enhancers drop or add a frame at the end: up to this much is cut or filled with zeros. Our choice.
LENGTH_TOLERANCE_SECONDS = 0.1
#: Files a measurement takes, what it must find in common, and how near to 1 a gain is left alone. Our choices.
MEASURED = 16
MINIMUM_CORRELATION = 0.3
GAIN_TOLERANCE_DB = 1.0
FLAG = "--data.teacher_folder"


class Recording(NamedTuple):
    """A noisy file: relative path without extension (POSIX style), length in samples at the data module's rate."""

    name: str
    samples: int


def find_taught(
    folder: str | Path, recordings: Sequence[Recording], sample_rate_hz: int, required: bool = True
) -> list[str] | None:
    """The teacher's file for each recording: that of the same relative name, whatever the extension.

    Args:
        folder: of enhanced files; it may hold more than these.
        recordings: the noisy files.
        sample_rate_hz: of the data module.
        required: without it, a folder that lacks some of the files gives None instead of an error.

    Raises:
        ValueError: for a missing or unreadable folder or file, two files of one name, a file at a lower rate than
            ``sample_rate_hz`` (it would teach to remove the upper band; higher ones are resampled), or one that is
            more than 0.1 s longer or shorter than the recording.
    """
    corpus = scan(folder, FLAG, files_only=True)
    found: dict[str, list[int]] = {}
    for place, path in enumerate(corpus.paths):
        found.setdefault(stem(path), []).append(place)
    missing = [recording.name for recording in recordings if recording.name not in found]
    if missing and not required:
        return None
    if missing:
        raise UserError(
            f"{FLAG} {corpus.root}: has no file for {some(missing)}; enhance every training file and keep its relative "
            "name"
        )
    files = []
    for name, samples in recordings:
        place, *others = found[name]
        file, rate = corpus.file(place), int(corpus.rates[place])
        if others:
            raise UserError(f"{FLAG} {corpus.root}: holds {1 + len(others)} files called {name}")
        if rate < sample_rate_hz:
            raise UserError(
                f"{FLAG} {file}: is at {rate} Hz, below the {sample_rate_hz} Hz of --data.sample_rate_hz, and holds "
                "nothing of the upper band; enhance at the full rate, or lower --data.sample_rate_hz"
            )
        seconds, wanted = int(corpus.frames[place]) / rate, samples / sample_rate_hz
        if abs(seconds - wanted) > LENGTH_TOLERANCE_SECONDS:
            raise UserError(
                f"{FLAG} {file}: lasts {seconds:.3f} s and the noisy file {wanted:.3f} s; they must agree within "
                f"{LENGTH_TOLERANCE_SECONDS} s"
            )
        corpus.check(place)
        files.append(str(file))
    return files


class Taught(NamedTuple):
    """The teacher's files, and how to read them in time with the noisy ones and at their level.

    files: one for each recording.
    delay_samples: how late they are, at the rate of the data module.
    gain: their level, which is divided out.
    copy: the same files, decoded; None reads them.
    """

    files: list[str]
    delay_samples: int = 0
    gain: float = 1.0
    copy: Corpus | None = None

    def decoded(
        self, lengths: Sequence[int] | np.ndarray, sample_rate_hz: int, cache_dir: str | Path | None, most_gb: float
    ) -> Taught:
        """The same, read from a decoded copy where that can be kept; ``lengths`` are those of the recordings."""
        corpus = of_files(self.files, lengths, sample_rate_hz)
        return self._replace(copy=corpus.decode(sample_rate_hz, cache_dir, most_gb))

    def read(self, place: int, sample_rate_hz: int, start: int, stop: int) -> Tensor:
        """What was taught at samples ``[start, stop)`` of a recording, zeros where the file holds nothing."""
        first, last = start + self.delay_samples, stop + self.delay_samples
        start, stop = max(0, first), max(0, last)
        if self.copy is not None:
            wave = self.copy.read(place, sample_rate_hz, start, stop)
        else:
            wave = read(self.files[place], sample_rate_hz, start, stop)
        wave = pad(wave, (max(0, -first), 0))
        return pad(wave, (0, last - first - wave.numel())) / self.gain


def align_taught(
    files: list[str],
    noisy: Sequence[str | Path],
    sample_rate_hz: int,
    delay_samples: int | None = None,
    gain: float | None = None,
) -> Taught:
    """The teacher's files with their delay and gain, measured where they are not given.

    Up to 16 files, spread over the folder, are measured: the same in every process and run. The delay is the peak of
    the cross-correlation with the noisy files, searched to 0.1 s either way. The gain is a fit over the loud frames, a
    little small where the teacher leaves noise in (see `kdse.audio.alignment`), so within 1 dB the level is left.

    Args:
        files, noisy: the teacher's, and the recordings they belong to.
        sample_rate_hz: of the data module.
        delay_samples, gain: how late the files are, and their level; None measures it.

    Raises:
        ValueError: if the files have nothing in common with the recordings.
    """
    if delay_samples is not None and gain is not None:
        return Taught(files, delay_samples, gain)
    from kdse.audio.alignment import measure_alignment

    places = sorted({round(i * (len(files) - 1) / (MEASURED - 1)) for i in range(MEASURED)})
    heard = [read(noisy[i], sample_rate_hz, 0, 10 * sample_rate_hz) for i in places]
    taught = [read(files[i], sample_rate_hz, 0, 10 * sample_rate_hz) for i in places]
    try:
        found = measure_alignment(
            pad_sequence(heard, batch_first=True),
            pad_sequence(taught, batch_first=True),
            round(LENGTH_TOLERANCE_SECONDS * sample_rate_hz),
            delay_samples=delay_samples,
        )
    except ValueError as error:
        raise UserError(f"{FLAG}: {files[places[0]]} and others: {error}") from None
    if abs(found.correlation) < MINIMUM_CORRELATION:
        raise UserError(
            f"{FLAG}: {files[places[0]]} and others have little in common with the noisy files of their names "
            f"(correlation {found.correlation:.2f}); if they do belong together, give --data.teacher_delay_samples and "
            "--data.teacher_gain"
        )
    near = found.gain > 0 and abs(20 * math.log10(found.gain)) <= GAIN_TOLERANCE_DB
    level = gain if gain is not None else 1.0 if near else found.gain
    log.info(
        f"{FLAG}: the files are {found.delay_samples} samples late and at {found.gain:.2f} times the level "
        f"(correlation {found.correlation:.2f} over {len(places)} files); read with a delay of {found.delay_samples} "
        f"and a gain of {level:.2f}"
    )
    return Taught(files, found.delay_samples, level)
