"""The argument parser of the tool commands, and the options that several of them have."""

from __future__ import annotations

import argparse
import contextlib
import re
import sys
from collections.abc import Iterable
from typing import Any, NoReturn

from kdse.errors import UserError, did_you_mean


class Parser(argparse.ArgumentParser):
    """An argument parser whose mistakes are `UserError`s; ``--trust_code`` is ``--trust-code``.

    Args:
        prog: what the user types.
        description: what the command does.
        epilog: explanation and examples, printed as they are.
    """

    def __init__(self, prog: str, description: str, epilog: str = "") -> None:
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(prog=prog, description=description, epilog=epilog, formatter_class=formatter)

    def error(self, message: str) -> NoReturn:
        message = re.sub(r"^argument (--[\w-]+): (\S+): (?=must|write)", r"\1 \2: ", message)
        for kind, words in (("int", "a whole number"), ("float", "a number"), ("positive", "a number above zero")):
            message = re.sub(rf"^argument (\S+): invalid {kind} value: '(.*)'$", rf"\1 \2: give {words}", message)
        choice = re.fullmatch(r"argument (.+): invalid choice: '(.*)' \(choose from (.*)\)", message)
        if choice is not None:
            name, given, known = choice.groups()
            known = known.replace("'", "")
            message = f"{name} {given}: use one of {known}{did_you_mean(given, known.split(', ')).rstrip('?')}"
        raise UserError(f"{message.removeprefix('argument ')}; `{self.prog} --help` explains")

    def parse_args(self, args: Iterable[str] | None = None, namespace: Any = None) -> Any:
        found, unknown = self._parse(args, namespace)
        if unknown:
            near = did_you_mean(_hyphenated(unknown[0]).partition("=")[0], re.findall(r"--[\w-]+", self.format_help()))
            self.error(f"unrecognized arguments: {' '.join(unknown)}{near.rstrip('?')}")
        return found

    def parse_known_args(self, args: Iterable[str] | None = None, namespace: Any = None) -> Any:
        found, unknown = self._parse(args, namespace)
        return found, [underscored(word) for word in unknown]  # (flags of kdse fit)

    def _parse(self, args: Iterable[str] | None, namespace: Any) -> tuple[Any, list[str]]:
        words = sys.argv[1:] if args is None else list(args)
        given = {_hyphenated(word): word for word in words}
        found, unknown = super().parse_known_args([_hyphenated(word) for word in words], namespace)
        return found, [given.get(word, word) for word in unknown]

    def add_json(self) -> None:
        self.add_argument("--json", action="store_true", help="print one JSON document and nothing else on stdout")

    def add_overwrite(self, what: str) -> None:
        self.add_argument("--overwrite", action="store_true", help=f"replace {what}")


def _hyphenated(word: str) -> str:
    flag, equals, value = word.partition("=")
    return flag.replace("_", "-") + equals + value if flag.startswith("--") else word


def underscored(word: str) -> str:
    """A flag of `kdse fit` with underscores: ``--run-dir`` is ``--run_dir``; names that the user chose stay."""
    flag, equals, value = word.partition("=")
    if not flag.startswith("--"):
        return word
    keys = flag[2:].split(".")
    last = 1 + (keys[0] == "objectives") + ("init_args" in keys)  # (further keys can be names that the user chose)
    chosen = 1 if keys[0] == "objectives" else None
    keys = [key if at == chosen or at > last else key.replace("-", "_") for at, key in enumerate(keys)]
    return f"--{'.'.join(keys)}{equals}{value}"


def positive(text: str) -> float:
    """An argument's type: a finite number above zero."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}: must be more than zero and finite")
    return value


def at_least(least: float, kind: type[int] | type[float] = int) -> Any:
    """An argument's type: a finite number from ``least`` up."""

    def read(text: str) -> float:
        with contextlib.suppress(ValueError):
            if least <= (value := kind(text)) < float("inf"):
                return value
        raise argparse.ArgumentTypeError(f"{text}: must be a {'whole ' * (kind is int)}number from {least} up")

    return read


def name_and_value(text: str) -> tuple[str, Any]:
    """An argument's type: NAME=VALUE with a value in YAML."""
    import yaml

    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise argparse.ArgumentTypeError(f"{text}: write NAME=VALUE, e.g. channels='[8,16,32,32]'")
    try:
        return name.strip(), yaml.safe_load(value)
    except yaml.YAMLError:
        raise argparse.ArgumentTypeError(f"{text}: {value!r} is not a YAML value") from None
