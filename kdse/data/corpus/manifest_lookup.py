"""The list of files that counts for a folder: its shards, else the manifest in it or in the nearest folder above."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from kdse.data.corpus.manifest import NAME
from kdse.errors import UserError

#: LitData's, of the shards beside it.
INDEX = "index.json"


def nearest(folder: Path) -> Path | None:
    """The manifest in an absolute folder, or in the nearest above it; None if there is none."""
    return next((above / NAME for above in (folder, *folder.parents) if _serves(above)), None)


def refuse_rivals(folder: Path, manifest: Path) -> None:
    """Refuses to write the manifest of a folder where it would hide another one, or be hidden by it.

    Raises:
        ValueError: naming the other manifest, or a place that serves other files than those of ``folder``.
    """
    folder = Path(os.path.abspath(folder))
    if manifest.name != NAME:  # found by --data.manifest only
        return
    if manifest.parent.resolve() != folder.resolve():
        raise UserError(
            f"--out {manifest}: a file of this name lists the folder that it lies in, which is not {folder}; "
            "choose another name, and give it to --data.manifest"
        )
    above = nearest(folder.parent)
    if above is not None:
        raise UserError(
            f"{folder}: is part of {above.parent}, which {above} lists; run `kdse corpus index {above.parent} --update`"
            f", or remove {above}, or choose another name by --out FILE and give it to --data.manifest"
        )
    for place, folders, names in os.walk(folder):
        folders.sort()
        if NAME in names and Path(place) != folder and _serves(Path(place)):
            raise UserError(
                f"{Path(place) / NAME}: would be used instead of {manifest} for the files beside and below it; "
                "remove it and run this again"
            )


def _serves(folder: Path) -> bool:
    """Whether a folder has a manifest of audio files; that of shards lists what is in the shards."""
    return (folder / NAME).is_file() and not is_packed(folder)


def is_packed(folder: Path) -> bool:
    """Whether a local folder holds shards: LitData's index, or a damaged index.json beside files of shards."""
    if not (folder / INDEX).is_file():
        return False
    try:
        return is_index(json.loads((folder / INDEX).read_bytes()))
    except (OSError, ValueError):
        return any(folder.glob("chunk-*.bin"))


def is_index(content: object) -> bool:
    """Whether JSON is LitData's index of shards."""
    return isinstance(content, Mapping) and "chunks" in content and "config" in content
