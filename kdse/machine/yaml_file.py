"""`read_yaml`: a YAML file as plain data; a key that is there twice is a mistake, not the last one's value."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

from kdse.errors import UserError

#: Bytes of a file, and values in it once its anchors are written out. Our choice: far above any config.
LARGEST_BYTES, MOST_VALUES = 2**23, 200_000


def read_yaml(path: str | Path, loader: Any = None) -> Any:
    """The content of a YAML file of bounded size, its anchors written out.

    Args:
        path: the file.
        loader: class of PyYAML that reads it; None is `yaml.SafeLoader`.

    Raises:
        UserError: in one line that names the file, and the line in it where there is one, if it cannot be read, is no
            YAML, has a key twice, or is larger than `LARGEST_BYTES` or `MOST_VALUES`.
    """
    import yaml

    base = loader or yaml.SafeLoader

    class Loader(base):  # type: ignore[misc, valid-type]
        values = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            """Counts the values that nodes stand for, each anchor as often as it is used, before any is made."""
            is_alias, before = self.check_event(yaml.AliasEvent), self.values
            node = super().compose_node(parent, index)
            # (an anchor within itself stands for values without end)
            self.values = before + getattr(node, "values", MOST_VALUES) if is_alias else self.values + 1
            if self.values > MOST_VALUES:
                raise UserError(f"{path}: holds more than {MOST_VALUES} values, so it is not read")
            if not is_alias:
                node.values = self.values - before
            return node

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
        with open(path, "rb") as file:
            content = file.read(LARGEST_BYTES + 1)
        if len(content) > LARGEST_BYTES:
            raise UserError(f"{path}: is larger than {LARGEST_BYTES >> 20} MiB, so it is not read as YAML")
        return yaml.load(content.decode(), Loader)
    except OSError as error:
        raise UserError(f"{path}: not readable ({error.strerror or error})") from None
    except (UnicodeDecodeError, yaml.YAMLError, ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f"; line {mark.line + 1}, column {mark.column + 1}"
        problem = " ".join(str(getattr(error, "problem", None) or error).split())[:120]
        raise UserError(f"{path}: not readable as YAML ({problem}{where})") from None
