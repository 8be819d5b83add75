"""`read_yaml`: a YAML file as plain data; a key that is there twice is a mistake, not the last one's value."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

from kdse.errors import UserError


def read_yaml(path: str | Path, loader: Any = None) -> Any:
    """The content of a YAML file.

    Args:
        path: the file.
        loader: class of PyYAML that reads it; None is `yaml.SafeLoader`.

    Raises:
        UserError: in one line that names the file, and the line in it where there is one.
    """
    import yaml

    base = loader or yaml.SafeLoader

    class Loader(base):  # type: ignore[misc, valid-type]
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys: set[Hashable] = set()
            for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
                key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
                if key in keys and key != "<<":
                    line = key_node.start_mark.line + 1
                    raise UserError(f"{path}: the key {key} is there twice in one mapping (line {line}); keep one")
                if key is not None:
                    keys.add(key)
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(Path(path).read_text(encoding="utf-8"), Loader)
    except OSError as error:
        raise UserError(f"{path}: not readable ({error.strerror or error})") from None
    except (UnicodeDecodeError, yaml.YAMLError, ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f"; line {mark.line + 1}, column {mark.column + 1}"
        problem = " ".join(str(getattr(error, "problem", None) or error).split())[:120]
        raise UserError(f"{path}: not readable as YAML ({problem}{where})") from None
