"""Lists and measures the audio files below a folder, and says what it left out; without torch, for many processes."""

from __future__ import annotations

import functools
import os
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from kdse.audio.opening import AudioError, blocks, open_audio
from kdse.errors import UserError, printable, some
from kdse.machine.packages import required

#: Endings of names by libsndfile's name of the container. Not among them: RAW (no header says what it holds), MAT4,
#: MAT5 and HTK (mostly other data than audio) and SD2 (its header lies in another file).
ENDINGS = {
    "AIFF": (".aiff", ".aif", ".aifc"),
    "AU": (".au", ".snd"),
    "AVR": (".avr",),
    "CAF": (".caf",),
    "FLAC": (".flac",),
    "IRCAM": (".sf", ".ircam"),
    "MP3": (".mp3",),
    "NIST": (".sph", ".nist"),
    "OGG": (".ogg", ".oga", ".opus"),
    "PAF": (".paf",),
    "PVF": (".pvf",),
    "RF64": (".rf64",),
    "SDS": (".sds",),
    "SVX": (".8svx", ".iff"),
    "VOC": (".voc",),
    "W64": (".w64",),
    "WAV": (".wav", ".wave", ".bwf"),
    "WVE": (".wve",),
    "XI": (".xi",),
}
#: How thoroughly files are looked at: their header, or every sample.
CHECKS = ("header", "decode")
#: How many names or endings a message shows.
SHOWN = 5


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


class Listing(NamedTuple):
    """What is below a folder: names are relative to it, POSIX style, in the order of a corpus (by folder and file).

    files: audio files. others: how many other files there are, by ending. dead_links: links that lead nowhere.
    seen_links: links to folders that were gone through already, on another way.
    """

    files: list[str]
    others: Counter[str]
    dead_links: list[str]
    seen_links: list[str]

    def left_out(self) -> str:
        """What was passed over, as part of a line: "3 left out: .m4a 2, .xyz 1"; empty if nothing was."""
        parts = []
        if self.others:
            kinds = sorted(self.others.items(), key=lambda kind: (-kind[1], kind[0]))
            counts = [f"{ending} {count}" for ending, count in kinds]
            parts.append(f"{self.others.total()} left out: {some(counts, SHOWN)}")
        for names, what in ((self.dead_links, "dead links"), (self.seen_links, "links to folders found already")):
            if names:
                parts.append(f"{len(names)} {what}: {some(names, SHOWN)}")
        return printable("; ".join(parts))


@functools.cache
def extensions() -> frozenset[str]:
    """Endings, in lower case, of the audio files that the installed libsndfile reads."""
    known = required("soundfile").available_formats()
    return frozenset(ending for container, endings in ENDINGS.items() if container in known for ending in endings)


def list_audio(root: str | Path) -> Listing:
    """The audio files below a folder, and what else is there.

    Links to folders are followed, each real folder once, however many links lead there or back; where several do, the
    way without a link counts, or the first by name. Hidden files (macOS leaves ``._name.wav``) and kdse's own lists
    (``manifest.*``) are passed over without a word. A `UserError` names a folder that cannot be listed.
    """
    root, known = os.fspath(root), extensions()
    found = Listing([], Counter(), [], [])
    seen: set[tuple[int, int]] = set()
    folders, links = [""], list[str]()
    while folders or links:
        linked = not folders
        if linked:  # (only now: all folders that are there without a link are known)
            links.sort(key=place_key, reverse=True)
        folder = (folders or links).pop()
        try:
            status = os.stat(os.path.join(root, folder))
            if linked and (status.st_dev, status.st_ino) in seen:
                found.seen_links.append(folder.rstrip("/"))
                continue
            seen.add((status.st_dev, status.st_ino))
            entries = list(os.scandir(os.path.join(root, folder)))
        except OSError as error:
            raise UserError(f"{error.filename}: cannot be listed ({error.strerror or error})") from None
        for entry in entries:
            name = folder + entry.name
            if entry.is_dir(follow_symlinks=False):
                folders.append(f"{name}/")
            elif entry.is_symlink() and os.path.isdir(entry):
                links.append(f"{name}/")
            elif entry.name.startswith((".", "manifest.")):
                continue
            elif not (entry.is_file(follow_symlinks=False) or os.path.isfile(entry)):
                found.dead_links.extend([name] if entry.is_symlink() else [])
            elif (ending := os.path.splitext(name)[1].lower()) in known:
                found.files.append(name)
            else:
                found.others[ending or "without ending"] += 1
    for names in (found.files, found.dead_links, found.seen_links):
        names.sort(key=place_key)
    return found


def audio_files(root: str | Path) -> list[str]:
    """Relative paths of the audio files below a folder (see `list_audio`)."""
    return list_audio(root).files


def place_key(path: str) -> str:
    """Sorts relative paths part by part, as `pathlib` does: "a/b" comes before "a-b"."""
    return path.replace("/", "\0")


def measure(root: str, path: str, check: str) -> Measured:
    """Looks at one file of a corpus, ``path`` relative to its ``root``.

    check: "header" trusts the header as far as `open_audio` does; "decode" reads every sample, and finds every file
    that is cut short or holds NaN or infinite samples.
    """
    file = os.path.join(root, path)
    frames = rate = channels = 0
    fault = ""
    try:
        status = os.stat(file)
    except OSError as error:
        return Measured(path, 0, 0, 0, 0, 0, f"cannot be opened ({error.strerror or error})")
    try:
        with open_audio(file) as audio:
            frames, rate, channels = int(audio.frames), int(audio.samplerate), int(audio.channels)
            for _ in blocks(audio, file) if check == "decode" else ():
                pass
    except AudioError as error:
        fault = str(error).removeprefix(printable(f"{file}: "))
    return Measured(path, frames, rate, channels, status.st_size, status.st_mtime_ns, fault)
