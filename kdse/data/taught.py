"""What a teacher made of each recording, from a folder: any system that writes files can teach."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor
from torch.nn.functional import pad

from kdse.data.audio import read
from kdse.data.corpora import scan

#: Enhancers drop or add a frame at the end: up to this much is cut or filled with zeros. Our choice.
LENGTH_TOLERANCE_SECONDS = 0.1
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
    corpus = scan(folder, FLAG)
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
        file, rate = corpus.file(place), corpus.rates[place]
        if counts[recording.name] > 1:
            raise ValueError(f"{FLAG} {corpus.root}: holds {counts[recording.name]} files called {recording.name}")
        if rate < sample_rate_hz:
            raise ValueError(
                f"{FLAG} {file}: is at {rate} Hz, below the {sample_rate_hz} Hz of --data.sample_rate_hz, and holds "
                "nothing of the upper band; enhance at the full rate, or lower --data.sample_rate_hz"
            )
        seconds, wanted = corpus.frames[place] / rate, recording.samples / sample_rate_hz
        if abs(seconds - wanted) > LENGTH_TOLERANCE_SECONDS:
            raise ValueError(
                f"{FLAG} {file}: lasts {seconds:.3f} s and the noisy file {wanted:.3f} s; they must agree within "
                f"{LENGTH_TOLERANCE_SECONDS} s and start at the same sample"
            )
        files.append(str(file))
    return files


def read_taught(path: str, sample_rate_hz: int, start: int, stop: int) -> Tensor:
    """Samples ``[start, stop)``, zeros where the file has ended."""
    wave = read(path, sample_rate_hz, start, stop)
    return pad(wave, (0, stop - start - wave.numel()))
