"""Conditions under which a sweep goes on: its file, and configs, teachers, corpus and flags beyond it."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdse.errors import UserError
from kdse.pretrained import located
from kdse.run.folder import read_config
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
    paths = list(dict.fromkeys([*in_flags(flags, "config"), *_swept(sweep, "config")]))
    found: dict[str, Any] = {
        "file": file_part(sweep),
        "configs": {path: digest(Path(path), "named by the sweep's command")[:12] for path in paths},
        "flags": identifying(extra),
        "seed": None if sweep.method == "grid" else seed,
    }
    configs = []
    for path in paths:
        with contextlib.suppress(UserError):  # (`kdse fit` says what is wrong with it)
            configs.append(read_config(Path(path)))

    def values(name: str) -> list[str]:
        return [*in_flags([*flags, *extra], name), *_swept(sweep, name), *in_configs(configs, name)]

    for path in dict.fromkeys(values(TEACHER)):
        if located(path).is_file():
            found[f"teacher {path}"] = digest(located(path))[:12]
    corpus = os.environ.get("KDSE_CORPUS")
    if corpus and not values(CORPUS):
        found["corpus (KDSE_CORPUS)"] = corpus if "://" in corpus else os.path.abspath(corpus)
    return found


def identifying(flags: Sequence[str]) -> list[str]:
    """Flags that change what runs compute: not the number of data workers, say."""
    return [flag for flag in flags if counts(flag.removeprefix("--").partition("=")[0])]


def in_flags(flags: Sequence[str], name: str) -> list[str]:
    """The values that a setting has among flags written as ``--name=VALUE``."""
    pairs = [flag.removeprefix("--").partition("=") for flag in flags]
    return [value for key, _, value in pairs if short(key) == name and value]


def in_configs(configs: Sequence[Mapping[str, Any]], name: str) -> list[str]:
    """The values that a setting such as ``model.teacher_checkpoint`` has in the contents of config files."""
    first, _, last = name.partition(".")
    parts = [config[first] for config in configs if isinstance(config.get(first), Mapping)]
    parts += [part["init_args"] for part in parts if isinstance(part.get("init_args"), Mapping)]
    return [part[last] for part in parts if isinstance(part.get(last), str)]


def digest(path: Path, what: str = "") -> str:
    """SHA-256 of a file; a file that cannot be read is a ValueError that says ``what`` it is."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: {what}, cannot be read ({error.strerror})") from None


def _swept(sweep: Sweep, name: str) -> list[str]:
    return [str(value) for p in sweep.parameters if short(p.name) == name for value in p.listed]
