"""What must not change while a sweep goes on, in its file and beyond it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from kdse.pretrained import located
from kdse.run.identity import counts, short
from kdse.sweeps.definition import ELSEWHERE, Sweep

TEACHER, CORPUS = "model.teacher_checkpoint", "data.root"


def file_part(sweep: Sweep) -> dict[str, Any]:
    """The file, but for its names and its cap."""
    return {key: value for key, value in sweep.content.items() if key not in (*ELSEWHERE, "run_cap")}


def conditions(sweep: Sweep, flags: Sequence[str], extra: Sequence[str], seed: int) -> dict[str, Any]:
    """The file, what its configs and teachers hold, the corpus, flags and the seed, as plain data.

    Teachers and the corpus are there only if they can be told: a teacher that is not trained yet is not.

    Args:
        sweep: what is swept.
        flags: of the file's command, with the values of some point.
        extra: flags that every point gets.
        seed: of the draws.

    Raises:
        ValueError: if a config cannot be read.
    """
    configs = list(dict.fromkeys(_values(sweep, flags, "config")))
    found: dict[str, Any] = {
        "file": file_part(sweep),
        "configs": {path: _digest(Path(path)) for path in configs},
        "flags": identifying(extra),
        "seed": None if sweep.method == "grid" else seed,
    }
    words = [*flags, *extra]
    for path in dict.fromkeys([*_values(sweep, words, TEACHER), *_in_configs(configs, TEACHER)]):
        if located(path).is_file():
            found[f"teacher {path}"] = _digest(located(path))
    named = [*_values(sweep, words, CORPUS), *_in_configs(configs, CORPUS)]
    corpus = os.environ.get("KDSE_CORPUS")
    if corpus and not named:
        found["corpus (KDSE_CORPUS)"] = corpus if "://" in corpus else os.path.abspath(corpus)
    return found


def identifying(flags: Sequence[str]) -> list[str]:
    """Those that change what runs compute: not the number of data workers, say."""
    return [flag for flag in flags if counts(flag.removeprefix("--").partition("=")[0])]


def _values(sweep: Sweep, flags: Sequence[str], name: str) -> Iterator[str]:
    """The values of a setting among flags and parameters."""
    for flag in flags:
        key, _, value = flag.removeprefix("--").partition("=")
        if short(key) == name and value:
            yield value
    for parameter in sweep.parameters:
        if short(parameter.name) == name:
            yield from map(str, parameter.settings.get("values", [parameter.settings.get("value")]))


def _in_configs(paths: Sequence[str], name: str) -> Iterator[str]:
    """The values of a setting in config files."""
    first, _, last = name.partition(".")
    for path in paths:
        try:
            content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            continue  # (`kdse fit` says what is wrong with it)
        part = content.get(first) if isinstance(content, Mapping) else None
        for place in (part, part.get("init_args") if isinstance(part, Mapping) else None):
            if isinstance(place, Mapping) and isinstance(place.get(last), str):
                yield place[last]


def _digest(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:12]
    except OSError as error:
        raise ValueError(f"{path}: named by the sweep's command, cannot be read ({error.strerror})") from None
