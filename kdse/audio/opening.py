"""Opens audio files for whoever reads or measures them: one check, errors that name the file. Without torch."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from kdse.errors import UserError, printable
from kdse.machine.packages import required

if TYPE_CHECKING:
    import numpy as np
    from soundfile import SoundFile

#: Samples (of all channels) that are decoded at once.
BLOCK = 1 << 16
#: Sample rates that are read, in Hz. Our choice: speech needs more than the lowest, and no recorder passes the highest;
#: a damaged header that claims others would make hours of a file, or nothing.
LOWEST_RATE_HZ, HIGHEST_RATE_HZ = 1_000, 1_000_000
#: More samples than any file holds: what libsndfile says of a FLAC stream that states no length.
NO_LENGTH = 1 << 48
#: The lengths that libsndfile's log gives of chunks, with what the file has of them, and of NIST's and AVR's samples.
_CHUNK = re.compile(
    r"^\s*(RIFF|FORM|Riff size|data|Data size|SSND|BODY)\s*: (\d+)(?: \(should be (\d+)\))?", re.M | re.I
)
_FRAMES = re.compile(r"^\s*(?:Frames\s*:|sample_count -i) (\d+)", re.M)
#: An MP3 frame needs those before it: so many samples, ten frames, are decoded and dropped after each seek (soundfile
#: seeks after each read as well). Our choice.
MP3_AHEAD = 11520
#: Bytes of an Ogg page at most (RFC 3533, section 6).
OGG_PAGE = 65307


class AudioError(UserError):
    """A file that cannot be used; its name appears `printable`."""

    def __init__(self, message: str = "") -> None:
        super().__init__(message)
        self.args = (printable(self.args[0]),)


def open_audio(path: str | Path, content: BinaryIO | None = None, whole: bool = True) -> SoundFile:
    """An open audio file of some samples, at a rate of 1 kHz to 1 MHz, of which nothing is known to be missing.

    A WAV file whose header was never finished (a length of 0, as programs leave it that write to a pipe or are
    killed) has the samples that are there.

    Args:
        path: of the file; its name may be any, also one that is not UTF-8.
        content: where the audio comes from instead; ``path`` then only names it.
        whole: whether the end will be read, which is then looked at where the header says too little (Ogg).

    Raises:
        AudioError: naming the file, if it is missing, no audio, cut short, empty or of an absurd rate.
    """
    soundfile = required("soundfile")
    with ExitStack() as on_error:
        try:
            file = on_error.enter_context(soundfile.SoundFile(os.fsencode(path) if content is None else content))
            if file.frames == 0 and file.format in ("WAV", "WAVEX", "RF64"):
                source = open(path, "rb") if content is None else content  # noqa: SIM115 (closed with the file)
                if (mended := _finished(source)) is not None:
                    file = on_error.enter_context(soundfile.SoundFile(mended))
            if fault := _fault(file, path, content, whole):
                raise AudioError(f"{path}: {fault}")
        except (RuntimeError, OSError, TypeError) as error:
            why = "no such file" if content is None and not os.path.exists(path) else _cause(error)
            raise AudioError(f"{path}: not readable as audio ({why})") from None
        on_error.pop_all()
    return file  # type: ignore[no-any-return]


def blocks(file: SoundFile, path: str | Path, samples: int | None = None) -> Iterator[np.ndarray]:
    """The next ``samples`` of an open file, or all to its end, in pieces ``[n, C]`` of float32.

    Memory is that of a piece, whatever a header claims.

    Raises:
        AudioError: naming the file, if it holds less than its header says, or NaN or infinite samples.
    """
    import numpy as np

    start = file.tell()
    end = file.frames if samples is None else start + samples
    most = max(1, BLOCK // file.channels)
    place = start
    while place < end:
        ahead = min(place, MP3_AHEAD) if file.format == "MP3" else 0
        try:
            if ahead:
                file.seek(place - ahead)
            block = file.read(ahead + min(most, end - place), dtype="float32", always_2d=True)[ahead:]
        except RuntimeError as error:
            where = f"after {place / file.samplerate:.2f} s"
            raise AudioError(f"{path}: damaged or cut short {where} ({_cause(error)})") from None
        if not len(block):
            raise AudioError(f"{path}: cut short: {place - start} of {end - start} samples could be read")
        if not np.isfinite(block).all():
            first = place + int(np.flatnonzero(~np.isfinite(block).all(1))[0])
            where = f"the first is sample {first}, at {first / file.samplerate:.2f} s"
            raise AudioError(f"{path}: holds NaN or infinite samples ({where})")
        place += len(block)
        yield block


def reason(error: BaseException) -> str:
    """What an error of any library says, as part of a line: its end, which has the cause."""
    return printable(" ".join(str(error).split())[-160:]) or type(error).__name__


def _cause(error: BaseException) -> str:
    """What libsndfile says is wrong, without the file's name before it."""
    return " ".join(str(error).split()).rpartition(": ")[2].rstrip(".") or type(error).__name__


def _fault(file: SoundFile, path: str | Path, content: BinaryIO | None, whole: bool) -> str:
    """Why an open file cannot be used, as far as its header (with ``whole``: and its end) tells; empty if it can."""
    if not LOWEST_RATE_HZ <= file.samplerate <= HIGHEST_RATE_HZ:
        return (
            f"claims a sample rate of {file.samplerate} Hz; {LOWEST_RATE_HZ} to {HIGHEST_RATE_HZ} Hz are read: mend "
            "its header, or remove it"
        )
    if file.frames >= NO_LENGTH:
        return f"its header states no length; write it anew (a {file.format} stream that was saved as it came)"
    if cut := _cut(file, path, content, whole):
        return f"cut short: {cut}"
    return "" if file.frames else "holds no samples"


def _cut(file: SoundFile, path: str | Path, content: BinaryIO | None, whole: bool) -> str:
    """What is missing of an open file; libsndfile reads what is left of most and says the rest in its log only."""
    log = file.extra_info
    if file.format == "OGG":
        missing = whole and not _ends_with_a_page(_bytes(path, content, -2 * OGG_PAGE))
        return "its last page is not complete" if missing else ""
    found = _CHUNK.findall(log)
    if file.format in ("WAV", "WAVEX"):  # of these many programs get the outer length wrong
        found = [row for row in found if row[0] == "data"] or found
    for _, promised, there in found:
        # writers to a pipe put the largest number there, about 2^31 or 2^32, instead of a length: no fault
        endless = any(abs(int(promised) - largest) < 1 << 16 for largest in (1 << 31, 1 << 32))
        if there and int(there) < int(promised) and not endless:
            return f"its header promises {promised} bytes of audio, {there} are there"
    if file.format == "NIST":
        log = _bytes(path, content, 0, 1024).decode("ascii", "replace")
    if (frames := _FRAMES.search(log)) and int(frames[1]) > file.frames:
        return f"its header promises {frames[1]} samples, {file.frames} are there"
    return "the file is shorter than its header says" if "truncated file" in log else ""


def _bytes(path: str | Path, content: BinaryIO | None, start: int, count: int = -1) -> bytes:
    """Bytes of a file from ``start`` on (from its end, if negative); of a ``content`` without moving it."""
    with ExitStack() as stack:
        source = stack.enter_context(open(path, "rb")) if content is None else content
        before = source.tell()
        size = source.seek(0, os.SEEK_END)
        source.seek(start if start >= 0 else max(0, size + start))
        found = source.read(count)
        source.seek(before)
        return found


def _ends_with_a_page(tail: bytes) -> bool:
    """Whether the last Ogg page of a file (RFC 3533, section 6) is there as a whole; also if none is found."""
    place = tail.rfind(b"OggS")
    if place < 0:
        return True
    page = tail[place:]
    segments = page[26] if len(page) > 26 else 255
    return len(page) >= 27 + segments + sum(page[27 : 27 + segments])


def _finished(source: BinaryIO) -> io.RawIOBase | None:
    """A RIFF or RF64 file as if its header had been finished; None if there are no samples behind it either."""
    size = source.seek(0, os.SEEK_END)
    source.seek(0)
    kind, place, size_of_data = source.read(12)[:4], 12, 0
    while len(head := source.read(8)) == 8:
        name, length = head[:4], int.from_bytes(head[4:], "little")
        if name == b"data":
            start, behind = place + 8, source.read(8)
            looks_like_a_chunk = all(32 <= byte < 127 for byte in behind[:4])
            if looks_like_a_chunk and int.from_bytes(behind[4:], "little") <= size - start - len(behind):
                return None  # (so does nothing at all)
            if kind == b"RF64":  # (whose lengths are in the chunk ds64: of the file, of the samples)
                return _Mended(source, size_of_data, (size - start).to_bytes(8, "little")) if size_of_data else None
            return _Mended(source, place + 4, min(size - start, 0xFFFFFFFE).to_bytes(4, "little"))
        if name == b"ds64":
            size_of_data = place + 16
        place += 8 + length + length % 2
        source.seek(place)
    return None


class _Mended(io.RawIOBase):
    """An open file of which some bytes, from ``place`` on, read as ``others``."""

    def __init__(self, source: BinaryIO, place: int, others: bytes) -> None:
        self._source, self._place, self._others = source, place, others
        source.seek(0)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._source.seek(offset, whence)

    def tell(self) -> int:
        return self._source.tell()

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        at = self._source.tell()
        read = bytearray(self._source.read(len(buffer)))
        for offset, byte in enumerate(self._others, self._place - at):
            if 0 <= offset < len(read):
                read[offset] = byte
        buffer[: len(read)] = bytes(read)
        return len(read)

    def close(self) -> None:
        self._source.close()
        super().close()
