"""What files that somebody else may have written can make kdse do: the one rule for the code they name and their size.

Such files are checkpoints, the config.yaml of a run folder, the summary.json of an evaluation, and exported files.
Without --trust-code they name classes of `HARMLESS` only, in the one form that kdse itself writes; whatever else the
parser of configs would take (a class path as text, dotted keys, the name of a YAML file) is refused before anything of
it is imported. What they ask of memory is bounded by the constants here, before it is allocated.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from kdse.errors import UserError, mistake_in, shortened

TRUST = "--trust-code (kdse fit: --model.trust_code)"

#: Public class paths that a file may name: to build one opens no model file and imports nothing that its arguments
#: name. The data modules read recordings, and keep copies of them where their arguments say.
HARMLESS = (
    "kdse.Enhancer",
    "kdse.Distiller",
    "kdse.models.Cruse",
    "kdse.models.Dccrn",
    "kdse.models.Gtcrn",
    "kdse.models.Manner",
    "kdse.models.Recorded",
    "kdse.models.UNet",
    "kdse.models.Uformer",
    "kdse.models.UlUnas",
    "kdse.data.Mixtures",
    "kdse.data.NoisyFolder",
    "kdse.data.PairedFolders",
    "kdse.data.SyntheticCorpus",
)
#: Arguments of those classes that are networks: a mapping of class_path and init_args. No other argument is a class.
NETWORKS = ("model", "student", "teacher")

# All bounds are our choice: far above what speech models and their files need, far below the memory of a laptop.
#: Largest number in the arguments of a class (widths, lengths, rates), seeds apart.
LARGEST_NUMBER = 2**20
#: Most entries of the lists and mappings in the arguments of a class, at any depth.
MOST_ENTRIES = 10**6
#: Most processes that a file may start.
MOST_WORKERS = 256
#: Most values that a network may have beyond those that its file holds: windows, filter banks. 64 MiB in float32.
MOST_EXTRA_VALUES = 2**24
#: Most values of a network whose weights are in no file yet. 1 GiB in float32.
MOST_VALUES = 2**28
#: Most tensors of a network beyond those that its file holds.
MOST_EXTRA_TENSORS = 10_000
#: Bytes that the states of an exported file may take (`kdse.machine.onnx_sessions` bounds its graph).
LARGEST_STATE_BYTES = 2**26


def harmless(class_path: str) -> str | None:
    """The public path of a class of `HARMLESS`; None for any other. Paths that name its module mean it too.

    (An earlier kdse stored ``kdse.models.cruse.Cruse``, and a class keeps its public path when its module moves.)
    """
    *above, name = class_path.split(".")
    for public in HARMLESS:
        package = public.rpartition(".")[0]
        if public.endswith(f".{name}") and f"{'.'.join(above)}.".startswith(f"{package}."):
            return public
    return None


def require_harmless(class_path: str, source: str) -> str:
    """The public path of a class that a file names; a `UserError` that names both if it is none of `HARMLESS`."""
    public = harmless(class_path)
    if public is None:
        ships, near = class_path.startswith("kdse."), difflib.get_close_matches(class_path, HARMLESS, 1, cutoff=0.9)
        why = "can open files or import code that its arguments name" if ships else "kdse does not ship"
        fix = f"did you mean {near[0]}?" if near else f"{TRUST} allows it"
        raise UserError(f"{source}: names the class {class_path!r}, which {why}; {fix}")
    return public


def checked(section: Any, source: str) -> dict[str, Any]:
    """The class_path and init_args of a file with public class paths, if they are harmless as a whole.

    Args:
        section: a class with its arguments, as kdse writes it.
        source: the file and the key in it, for messages.

    Raises:
        UserError: in one line that names file, key and class, for anything else than classes of `HARMLESS`.
    """
    if not isinstance(section, Mapping) or not isinstance(section.get("class_path"), str):
        raise UserError(f"{source}: {_shown(section)} is no mapping of class_path and init_args; {TRUST} allows it")
    public, arguments = require_harmless(section["class_path"], source), section.get("init_args") or {}
    for name in section:
        if name not in ("class_path", "init_args") or not isinstance(arguments, Mapping):
            raise UserError(f"{source}: {public} with {name} {_shown(section[name])}; {TRUST} allows it")
    networks = {name: arguments[name] for name in NETWORKS if arguments.get(name) is not None}
    for key, name, value in _entries({**arguments, **dict.fromkeys(networks)}, f"{source}.init_args"):
        dotted = "." in name and key == f"{source}.init_args"  # (of another depth; names of taps may have dots)
        if dotted or name.startswith("__") or name.rpartition(".")[2] in ("class_path", "init_args"):
            raise UserError(f"{key}: {name!r:.80} is {_shown(value)}, which could name a class; {TRUST} allows it")
    found = {name: checked(value, f"{source}.init_args.{name}") for name, value in networks.items()}
    return {"class_path": public, "init_args": {**arguments, **found}}


def check_numbers(arguments: Any, source: str) -> None:
    """Refuses arguments, at any depth, with a number beyond `LARGEST_NUMBER` (or `MOST_WORKERS`), by its name."""
    for key, name, value in _entries(arguments, source):
        most = MOST_WORKERS if name.endswith("workers") else LARGEST_NUMBER
        if isinstance(value, int | float) and abs(value) > most and "seed" not in name:
            raise UserError(f"{key}.{name}: {_shown(value)} is beyond {most}, the largest allowed")


def _entries(value: Any, key: str, left: list[int] | None = None) -> Iterator[tuple[str, str, Any]]:
    """All entries of mappings and lists at any depth: (key that leads to it, its own name, value)."""
    left = [MOST_ENTRIES] if left is None else left
    left[0] -= 1
    if len(key) > 500 or left[0] < 0:  # (a list can hold itself, or another one twice, and that one another ...)
        raise UserError(f"{key:.60} ...: nested too deeply")
    found = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list | tuple) else ()
    for name, inner in found:
        yield key, str(name), inner
        yield from _entries(inner, f"{key}.{name}", left)


def _shown(value: Any) -> str:
    return f"{value!r:.80}" if isinstance(value, str | int | float | None) else f"a {type(value).__name__}"


def build(
    section: Any, base: type, source: str, trust_code: bool, hint: str = "", explain: Callable[[str], str] | None = None
) -> Any:
    """The object that a section of a file describes: a subclass of ``base``.

    Args:
        section, source: as `checked`; with ``trust_code`` whatever the parser of configs takes.
        hint: ends the message of a mistake.
        explain: makes a line of the parser's message; None shortens it.

    Raises:
        UserError: for a class that is not trusted, or arguments that do not fit. What the class's own code raises
            besides keeps its traceback.
    """
    from jsonargparse import ArgumentError, ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(base, "made", fail_untyped=False, required=True)
    section = section if trust_code else checked(section, source)
    try:
        config = parser.parse_object({"made": section})
        if not trust_code:  # (as parsed: text can stand for a number)
            check_numbers(config.as_dict()["made"], "its arguments")
        return parser.instantiate_classes(config).made
    except (ArgumentError, ValueError) as error:
        mistake = mistake_in(error)
        if mistake is None and trust_code and not isinstance(error, ArgumentError):
            raise  # (of a class of the user's)
        if mistake is None and explain is not None:
            raise UserError(explain(str(error))) from error
        raise UserError(f"{source}: {shortened(mistake or error, 400)}{hint}") from error
