"""What a teacher made of each recording, from a folder: any system that writes files can teach."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from kdse.audio.files import read
from kdse.data.corpus.corpora import check_listed, scan

log = logging.getLogger(__name__)

#: Enhancers drop or add a frame at the end: up to this much is cut or filled with zeros. Our choice.
LENGTH_TOLERANCE_SECONDS = 0.1
#: Files a measurement takes, what it must find in common, and how near to 1 a gain is left alone. Our choices.
MEASURED = 16
MINIMUM_CORRELATION = 0.3
GAIN_TOLERANCE_DB = 1.0
FLAG = "--data.teacher_folder"
SHOWN = 3


class Recording(NamedTuple):
    """A noisy file as the teacher's folder is searched for it.

    name: relative path without extension, POSIX style.
    samples: length at the rate of the data module.
    """

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
    stems = [path.rsplit(".", 1)[0] for path in corpus.paths]
    places = {stem: place for place, stem in enumerate(stems)}
    missing = [recording.name for recording in recordings if recording.name not in places]
    if missing and not required:
        return None
    if missing:
        more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
        raise ValueError(
            f"{FLAG} {corpus.root}: has no file for {', '.join(missing[:SHOWN])}{more}; enhance every training file "
            "and keep its relative name"
        )
    counts = Counter(stems)
    files = []
    for recording in recordings:
        place = places[recording.name]
        file, rate = corpus.file(place), int(corpus.rates[place])
        if counts[recording.name] > 1:
            raise ValueError(f"{FLAG} {corpus.root}: holds {counts[recording.name]} files called {recording.name}")
        if rate < sample_rate_hz:
            raise ValueError(
                f"{FLAG} {file}: is at {rate} Hz, below the {sample_rate_hz} Hz of --data.sample_rate_hz, and holds "
                "nothing of the upper band; enhance at the full rate, or lower --data.sample_rate_hz"
            )
        seconds, wanted = int(corpus.frames[place]) / rate, recording.samples / sample_rate_hz
        if abs(seconds - wanted) > LENGTH_TOLERANCE_SECONDS:
            raise ValueError(
                f"{FLAG} {file}: lasts {seconds:.3f} s and the noisy file {wanted:.3f} s; they must agree within "
                f"{LENGTH_TOLERANCE_SECONDS} s"
            )
        if corpus.manifest is not None:
            check_listed(file, int(corpus.manifest.sizes[place]), str(corpus.manifest.file))
        files.append(str(file))
    return files


def check_alignment(delay_samples: int | None, gain: float | None) -> tuple[int | None, float | None]:
    """The two settings as they are.

    Raises:
        ValueError: for a gain of zero.
    """
    if gain == 0:
        raise ValueError("--data.teacher_gain 0: must not be zero; 1 leaves the level, null measures it")
    return delay_samples, gain


class Taught(NamedTuple):
    """The teacher's files and how to read them in time with the noisy ones, at their level.

    files: one for each recording.
    delay_samples: how late they are, at the rate of the data module.
    gain: their level, which is divided out.
    """

    files: list[str]
    delay_samples: int = 0
    gain: float = 1.0

    def read(self, place: int, sample_rate_hz: int, start: int, stop: int) -> Tensor:
        """What was taught at samples ``[start, stop)`` of a recording, zeros where the file holds nothing."""
        first, last = start + self.delay_samples, stop + self.delay_samples
        wave = read(self.files[place], sample_rate_hz, max(0, first), max(0, last))
        wave = pad(wave, (max(0, -first), 0))
        return pad(wave, (0, stop - start - wave.numel())) / self.gain


def align_taught(
    files: list[str],
    noisy: Sequence[str | Path],
    sample_rate_hz: int,
    delay_samples: int | None = None,
    gain: float | None = None,
) -> Taught:
    """Measures what is not given on up to 16 files, spread over the folder: the same in every process and run.

    The delay is the peak of the cross-correlation with the noisy files, searched to 0.1 s either way. The gain is a
    fit over the loud frames, a little small where the teacher leaves noise in (see `kdse.audio.alignment`), so within
    1 dB the level is left as it is.

    Args:
        files: the teacher's.
        noisy: the recordings they belong to.
        sample_rate_hz: of the data module.
        delay_samples: how late the files are; None measures it.
        gain: their level; None measures it.

    Raises:
        ValueError: if the files have nothing in common with the recordings.
    """
    if delay_samples is not None and gain is not None:
        return Taught(files, delay_samples, gain)
    from kdse.audio.alignment import measure_alignment  # here: the processes that generate corpora need no torch

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
        raise ValueError(f"{FLAG}: {files[places[0]]} and others: {error}") from None
    if abs(found.correlation) < MINIMUM_CORRELATION:
        raise ValueError(
            f"{FLAG}: {files[places[0]]} and others have little in common with the noisy files of their names "
            f"(correlation {found.correlation:.2f}); if they do belong together, give --data.teacher_delay_samples and "
            "--data.teacher_gain"
        )
    near = abs(20 * math.log10(abs(found.gain))) <= GAIN_TOLERANCE_DB and found.gain > 0
    level = gain if gain is not None else 1.0 if near else found.gain
    log.info(
        "%s: the files are %d samples late and at %.2f times the level (correlation %.2f over %d files); read with a "
        "delay of %d and a gain of %.2f",
        FLAG,
        found.delay_samples,
        found.gain,
        found.correlation,
        len(places),
        found.delay_samples,
        level,
    )
    return Taught(files, found.delay_samples, level)
