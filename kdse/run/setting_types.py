"""What the settings of a config take: their types in words, and the classes there are."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

#: Modules with the classes that a config can name; the first with any of the wanted kind answers "what is there".
HOMES = (
    "lightning.pytorch.callbacks", "lightning.pytorch.loggers", "torch.optim", "torch.optim.lr_scheduler", "kdse.data",
    "kdse.schedule", "kdse.losses", "kdse.objectives", "kdse.models", "kdse",
)  # fmt: skip
WORDS = {int: "a whole number", float: "a number", str: "text", types.NoneType: "null"}
LISTS = (list, tuple, set, Sequence, Iterable)
MAPPINGS = (dict, Mapping)
#: Longest value and longest list of choices that a message repeats, in characters: the line stays below 300.
LONGEST_VALUE, LONGEST_CHOICES = 60, 130


class Text(str):
    """The value of a flag, which YAML may read as something else than text."""


def origin(kind: Any) -> Any:
    """A type without what it holds: list for ``list[int]``."""
    return typing.get_origin(kind) or kind


def members(kind: Any) -> list[Any]:
    """The types that a type allows: of a union all, else itself."""
    if origin(kind) in (typing.Union, types.UnionType):
        return [one for part in typing.get_args(kind) for one in members(part)]
    return [kind]


def classes(kinds: Sequence[Any]) -> tuple[tuple[type, ...], int]:
    """The classes that a class path may name here, and how many arguments of theirs the config does not give."""
    found: list[type] = []
    given = 0
    for kind in kinds:
        made = [kind]
        if typing.get_origin(kind) is not None and origin(kind) is Callable:
            arguments, result = typing.get_args(kind)
            given, made = len(arguments), members(result)
        found += [one for one in made if isinstance(one, type) and typing.get_origin(one) is None and _is_named(one)]
    return tuple(dict.fromkeys(found)), given


def _is_named(kind: type) -> bool:
    package = kind.__module__.partition(".")[0]
    return package not in ("builtins", "datetime", "pathlib") and kind.__name__ != "Tensor" and not is_record(kind)


def is_record(kind: Any) -> bool:
    """Whether a config gives a mapping with the fields of this type, and no class path."""
    return isinstance(kind, type) and dataclasses.is_dataclass(kind)


def fits(kind: Any, value: Any) -> bool:
    """Whether a setting of this type takes a value; jsonargparse is asked."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    try:
        parser.add_argument("--flag", type=kind)
        parser.add_argument("--value", type=dict[str, kind])  # (by itself, null would be the default)
    except ValueError:  # (a type that it knows nothing about)
        return True
    try:
        if isinstance(value, Text):
            parser.parse_args([f"--flag={value}"])
        else:
            parser.parse_object({"value": {"one": value}})
    except Exception:  # jsonargparse has several error types, and lets some of Python's through
        return False
    return True


# --- classes ---


def choices(bases: tuple[type, ...]) -> list[str]:
    """Class paths that a config can give where one of these kinds of class is wanted."""
    for home in HOMES:
        module = importlib.import_module(home)
        named = ((name, getattr(module, name, None)) for name in getattr(module, "__all__", dir(module)))
        found = [
            f"{home}.{name}"
            for name, item in named
            if isinstance(item, type) and issubclass(item, bases) and (item not in bases or home == "kdse")
        ]
        if found:
            return found
    return []


def resolve(path: Any, bases: tuple[type, ...]) -> tuple[Any, str]:
    """The class or function of a class path, and what is wrong with it ("" if nothing is)."""
    home, _, name = str(path).rpartition(".")
    below: list[Any] = [] if home else [kind for base in bases for kind in _below(base) if kind.__name__ == name]
    found = below[0] if below else None
    try:
        found = found or getattr(importlib.import_module(home), name, None)
    except Exception as error:  # whatever a module of the user's does when it is imported
        if home and not (isinstance(error, ModuleNotFoundError) and f"{home}.".startswith(f"{error.name}.")):
            return None, f"cannot be imported ({' '.join(f'{type(error).__name__}: {error}'.split())[:120]})"
    if found is None:
        return None, "no such class" + hint(str(path), choices(bases), "there are")
    if isinstance(found, type) and bases and not issubclass(found, bases):
        return None, f"is no {bases[0].__name__}" + hint("", choices(bases), "there are")
    return found, ""


def _below(base: type) -> Iterator[type]:
    yield base
    below: list[type] = type.__subclasses__(base)
    for kind in below:
        yield from _below(kind)


# --- words ---


def shown(value: Any) -> str:
    """A value in the words of a config, cut if it is long."""
    words = {True: "true", False: "false", None: "null", "": "(empty)"}
    text = words[value] if isinstance(value, (bool, str, types.NoneType)) and value in words else str(value)
    text = " ".join(text.split())
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}..."


def listed(names: Iterable[str]) -> str:
    """Names with commas, as many as a line takes; a module that several share is written once."""
    names = list(names)
    home = names[0].rpartition(".")[0] if len({name.rpartition(".")[0] for name in names}) == 1 else ""
    line = ""
    for name in names:
        name = name.removeprefix(f"{home}.") if line else name
        if len(line) + len(name) > LONGEST_CHOICES:
            return f"{line}, ..."
        line += f", {name}" if line else name
    return line or "none"


def hint(name: str, known: Iterable[str], otherwise: str, prefix: str = "") -> str:
    """The end of a message about an unknown name: what it was meant to be, or what there is."""
    known = list(known)
    short = {one.rpartition(".")[2].lower(): one for one in known}
    word = name.rpartition(".")[2].lower()
    near = difflib.get_close_matches(word, short, 1) or [one for one in short if word and one.startswith(word)]
    return f"; did you mean {prefix}{short[near[0]]}?" if near else f"; {otherwise} {listed(known)}"


def words(kinds: Sequence[Any]) -> str:
    """What a setting takes, in words."""
    found: list[str] = []
    for kind in kinds:
        if kind is bool:
            found += ["true", "false"]
        elif kind in WORDS and not (kind is int and float in kinds):
            found.append(WORDS[kind])
        elif typing.get_origin(kind) is typing.Literal:
            found += [shown(choice) for choice in typing.get_args(kind)]
        elif origin(kind) in LISTS:
            inner = members((*typing.get_args(kind), Any)[0])
            example = "[1, 2]" if int in inner else "[0.5, 1]" if float in inner else "[a, b]" if str in inner else ""
            found.append(f"a list such as {example}" if example else "a list")
        elif origin(kind) in MAPPINGS:
            found.append("a mapping of names to values")
    bases, _ = classes(kinds)
    if bases:
        found.append(f"a class path ({listed(choices(bases))})")
    found = sorted(dict.fromkeys(found), key=lambda word: word == "null") or ["another value"]
    return found[0] if len(found) == 1 else f"{', '.join(found[:-1])} or {found[-1]}"
