"""What kdse uses of LitData beyond its public API, which is a dataset to stream. All was last checked with 0.2.76."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from kdse.internals.library import Library

LITDATA = Library("litdata", "0.2.76", "litdata>=0.2.76,<0.3")

#: Layout of a chunk: number of items, then where each begins and the last ends, 4 bytes each; an item's own header of 4
#: bytes (its size). `kdse.data.corpus.packing` compares every chunk with it.
WORD = 4
ITEM_HEADER = 4


def write_chunk(folder: Path, number: int, items: Iterable[bytes], most_bytes: int) -> tuple[Path, dict[str, Any]]:
    """Writes items into one chunk in a new folder, with LitData's ``BinaryWriter``.

    The public `litdata.optimize` decides itself which items go together. The chunk, its own numbers included, must stay
    below ``most_bytes``, or there would be a second one.

    Returns:
        the chunk, and what LitData's index, which is left beside it, says: {"chunks": [one entry], "config": ...}.
    """
    writer = LITDATA.load("litdata.streaming.writer", "BinaryWriter")(
        str(folder), chunk_bytes=most_bytes, chunk_index=number
    )
    add = LITDATA.get(writer, "add_item")
    for place, item in enumerate(items):
        add(place, item)
    (made,) = LITDATA.get(writer, "done")()
    index = Path(LITDATA.get(writer, "write_chunks_index")())
    return Path(made), cast(dict[str, Any], json.loads(index.read_text(encoding="utf-8")))


def downloader(url: str) -> tuple[Any, bool]:
    """What reads files of a folder of object storage, by ``download_file`` and ``download_bytes``: LitData's.

    Returns:
        the downloader, and whether it reads parts of files; one that does not (Azure's) fetches a file and keeps it.

    Raises:
        ImportError: if LitData or its client for this storage is not installed.
    """
    base = LITDATA.load("litdata.streaming.downloader", "Downloader")
    make = LITDATA.load("litdata.streaming.downloader", "get_downloader")
    made = make(url, "", [])  # (no chunks: it chooses no place)
    LITDATA.get(made, "download_file")
    return made, LITDATA.get(type(made), "download_bytes") is not LITDATA.get(base, "download_bytes")
