"""What kdse uses of jsonargparse beyond its public API. All of it was last checked with 4.53.0."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple, Union

from kdse.internals.library import Library

JSONARGPARSE = Library("jsonargparse", "4.53", "jsonargparse[signatures]>=4.53,<5")


def yaml_loader() -> Any:
    """The class of PyYAML that reads configs: in it, unlike in PyYAML's own, 1e-3 is a number."""
    return JSONARGPARSE.load("jsonargparse._loaders_dumpers", "get_yaml_default_loader")()


class Parameter(NamedTuple):
    """What a class or function takes under one name: its type, whether it must be given, what its docstring says."""

    kind: Any
    required: bool
    about: str


def parameters(made: Any) -> dict[str, Parameter]:
    """What a class or function takes, by name. Unlike `inspect.signature`, it follows ``**kwargs`` to their use."""
    found = JSONARGPARSE.load("jsonargparse._parameter_resolvers", "get_signature_parameters")(made)
    empty = inspect.Parameter.empty
    kinds = {p.name: Any if p.annotation is empty else p.annotation for p in found}
    for p in found:
        if p.default is None:  # (jsonargparse takes null then, whatever the annotation says)
            kinds[p.name] = Union[kinds[p.name], None]  # noqa: UP007 (an annotation may be text)
    return {p.name: Parameter(kinds[p.name], p.default is empty, p.doc or "") for p in found}


def options(parser: Any) -> Mapping[str, Any]:
    """What a parser takes, by dotted name: its type, or None for what does not go into the config (``--help``)."""
    return {
        action.dest: getattr(action, "_typehint", action.type)
        for action in JSONARGPARSE.get(parser, "_actions")
        if action.option_strings and not action.dest.endswith(".help")
    }
