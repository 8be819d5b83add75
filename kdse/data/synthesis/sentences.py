"""The sentences of the embedded corpus by espeak language ("en" is British), all written for kdse (sentences.txt)."""

from __future__ import annotations

from importlib.resources import files

_SPLIT_OF_POSITION = ("train", "train", "train", "valid", "test")


def _read() -> dict[str, list[str]]:
    """Sections ``[en-us en]`` of one sentence a line: those below belong to all languages named."""
    found: dict[str, list[str]] = {}
    for line in files(__package__).joinpath("sentences.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            texts: list[str] = []
            found |= dict.fromkeys(line.strip("[]").split(), texts)
        elif line:
            texts.append(line)
    return found


_BY_LANGUAGE = _read()
LANGUAGES = tuple(_BY_LANGUAGE)


def sentences_of(language: str, split: str) -> tuple[str, ...]:
    """The sentences of one language that belong to one split ("train", "valid" or "test").

    Of every five sentences three are for train, one for valid and one for test: none is heard in two splits.
    """
    return tuple(text for i, text in enumerate(_BY_LANGUAGE[language]) if _SPLIT_OF_POSITION[i % 5] == split)
