"""Lists and measures audio files: what an index notes of each; without torch, for many processes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from kdse.errors import UserError

if TYPE_CHECKING:
    from soundfile import SoundFile

from kdse.machine.packages import required

EXTENSIONS = (".flac", ".wav", ".ogg")
#: How thoroughly files are looked at: their header, or every sample.
CHECKS = ("header", "decode")
BLOCK = 1 << 18
NOT_UTF8 = "its name is not UTF-8; rename it"


class Measured(NamedTuple):
    """A file of a corpus: length in samples at its own rate in Hz, channels, bytes, and when it was last changed (ns).

    fault: why it cannot be used; empty if it can.
    """

    path: str
    frames: int
    rate: int
    channels: int
    size: int
    mtime: int
    fault: str


def audio_files(root: str | Path) -> list[str]:
    """Relative POSIX paths of the audio files below a folder, in the order of a corpus: by folder and file names.

    Hidden files (macOS leaves ``._name.wav``) are passed over; links to folders are not followed. A ValueError names
    a folder that cannot be listed.
    """
    root = os.fspath(root)
    found = []
    for folder, _, names in os.walk(root, onerror=_refuse):
        inside = os.path.relpath(folder, root).replace(os.sep, "/")
        prefix = "" if inside == "." else inside + "/"
        found += [
            prefix + name
            for name in names
            if not name.startswith(".")
            and os.path.splitext(name)[1].lower() in EXTENSIONS
            and os.path.isfile(os.path.join(folder, name))
        ]
    return sorted(found, key=place_key)


def _refuse(error: OSError) -> None:
    raise UserError(f"{error.filename}: cannot be listed ({error.strerror or error})")


def place_key(path: str) -> str:
    """Sorts relative paths part by part, as `pathlib` does: "a/b" comes before "a-b"."""
    return path.replace("/", "\0")


def printable(path: str) -> str:
    """A path as text: bytes that are not UTF-8, and ends of lines, as escapes."""
    return path.encode("utf-8", "backslashreplace").decode().replace("\n", "\\n")


def reason(error: BaseException) -> str:
    """What an error says, as part of a line: its end, which has the cause."""
    return " ".join(str(error).split())[-160:] or type(error).__name__


def measure(root: str, path: str, check: str) -> Measured:
    """Looks at one file of a corpus, ``path`` relative to its ``root``.

    check: "header" trusts the header; "decode" reads every sample and finds files that are cut short or hold NaN or
    infinite samples too.
    """
    soundfile = required("soundfile")
    file = os.path.join(root, path)
    try:
        status = os.stat(file)
    except OSError as error:
        return Measured(path, 0, 0, 0, 0, 0, f"cannot be opened ({error.strerror or error})")
    frames = rate = channels = 0
    try:
        with soundfile.SoundFile(file) as audio:
            frames, rate, channels = int(audio.frames), int(audio.samplerate), int(audio.channels)
            fault = "holds no samples" if frames == 0 else _decode(audio) if check == "decode" else ""
    except UnicodeError:  # it would fail later too, wherever names are written: reports, tables, checksums
        fault = NOT_UTF8
    except (RuntimeError, OSError, TypeError) as error:
        fault = f"not readable as audio ({reason(error)})"
    return Measured(path, frames, rate, channels, status.st_size, status.st_mtime_ns, fault)


def _decode(audio: SoundFile) -> str:
    """The fault of an open file; empty if all of it can be read and is finite."""
    import numpy as np

    read = 0
    while len(block := audio.read(BLOCK, dtype="float32", always_2d=True)):
        read += len(block)
        if not np.isfinite(block).all():
            return "holds NaN or infinite samples"
    return "" if read == audio.frames else f"cut short: {read} of {audio.frames} samples could be read"
