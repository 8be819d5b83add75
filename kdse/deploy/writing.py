"""Writing audio like a given file: same format, never half a file under the final name, errors that can be caught."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from torch import Tensor

from kdse.machine.files import beside
from kdse.machine.packages import required

if TYPE_CHECKING:
    from soundfile import SoundFile


@contextmanager
def write_like(reader: SoundFile, target: Path) -> Iterator[Callable[[Tensor], None]]:
    """Yields a function that appends samples ``[C, n]`` to ``target``, in the format of an open `SoundFile`.

    The file is written beside its final name, moved there when the body ends, and removed if the body raises; its
    folder is made. It gets the reader's sample rate, channels, container and sample format.

    Raises:
        OSError: if it cannot be written (disk full, no permission).
    """
    soundfile = required("soundfile")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = beside(target)
    try:
        with open(partial, "wb") as file:
            quiet = _Quiet(file)
            with soundfile.SoundFile(
                quiet, "w", reader.samplerate, reader.channels, reader.subtype, format=reader.format
            ) as writer:

                def write(samples: Tensor) -> None:
                    for part in samples.split(16384, dim=1):  # (Vorbis' encoder overflows the stack on large ones)
                        writer.write(part.numpy().T)
                        quiet.check()

                yield write
            quiet.check()
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


class _Quiet:
    """A binary file that keeps its first error for `check`: libsndfile's callbacks print what is raised in them."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._error: OSError | None = None

    def check(self) -> None:
        if self._error is not None:
            raise self._error

    def write(self, data: bytes) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self._error = self._error or error
            return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        try:
            return self._file.seek(offset, whence)
        except OSError as error:
            self._error = self._error or error
            return 0

    def tell(self) -> int:
        return self._file.tell()
