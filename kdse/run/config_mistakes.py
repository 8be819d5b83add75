"""Where a config goes wrong, in one line: the flag, or the file and key, what stands there and what would do.

jsonargparse names neither list items nor files, and answers a typing error with all types that it tried. So once it
has refused a config, the flags and files are read again here and each value is held against the type of its setting.
"""

from __future__ import annotations

import os
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdse.errors import UserError
from kdse.internals.jsonargparse import parameters, yaml_loader
from kdse.machine.yaml_file import read_yaml
from kdse.run.setting_types import (
    LISTS,
    MAPPINGS,
    Text,
    choices,
    classes,
    fits,
    hint,
    is_record,
    members,
    origin,
    resolve,
    shown,
    words,
)

CLASS_KEYS = ("class_path", "init_args", "dict_kwargs")
#: What the line about a wrong null has.
NULL = " null: give "
#: Keys of jsonargparse's own that are in no config.
NOT_SETTINGS = ("help", "config", "print_config", "print_shtab")

Place = tuple[str | int, ...]


class Config:
    """The settings of a command as they were written, and where each stands.

    Args:
        accepted: the type of each setting of the command, by dotted name.
    """

    def __init__(self, accepted: Mapping[str, Any]) -> None:
        self.accepted: dict[str, Any] = {}  # (groups as mappings)
        for name, kind in accepted.items():
            group, _, inner = name.partition(".")
            if inner:
                self.accepted[group] = {**(self.accepted.get(group) or {}), inner: kind}
            elif name not in NOT_SETTINGS:
                self.accepted.setdefault(name, kind)
        self.values: dict[str, Any] = {}  # (a class is the mapping of its arguments with class_path)
        self.files: dict[Place, str] = {}  # (of a flag: "")

    # --- reading ---

    def read_arguments(self, arguments: Sequence[str]) -> None:
        """Takes flags and the files of ``--config``, in their order.

        Raises:
            UserError: for a file that cannot be read, is no config, or has a key that no setting has.
        """
        left = iter(arguments)
        for argument in left:
            flag, equals, text = argument.partition("=")
            if not flag.startswith("--") and flag != "-c" or flag.startswith(("--print_", "--help")):
                continue
            text = text if equals else next(left, "")
            if flag in ("-c", "--config"):
                self.read_file(text)
                continue
            first, *rest = flag[2:].removesuffix("+").split(".")
            long = [name for name in self.accepted if name.startswith(first)]  # (argparse takes beginnings too)
            first = long[0] if first not in self.accepted and len(long) == 1 else first
            append = flag.endswith("+")
            self.put([first, *rest], [Text(text)] if append else Text(text), append=append)

    def read_file(self, file: str) -> None:
        """Takes a config file, or the YAML that is given in place of its name; what fsspec reads is left to it."""
        if "://" in file:
            return
        content = _structure(Text(file))
        if isinstance(content, dict) and not os.path.exists(file):
            file = "--config"
        else:
            content = read_yaml(file, yaml_loader())
        if not isinstance(content, dict):
            raise UserError(f"{file}: is no config (a mapping with keys such as model, data and trainer)")
        for key, value in content.items():
            if key not in self.accepted:
                raise UserError(f"{file}: {key}: unknown{hint(str(key), self.accepted, 'there are')}")
            if isinstance(self.accepted[key], dict) and not isinstance(value, dict):
                raise UserError(f"{file}: {key} {shown(value)}: give a mapping of settings, or leave it out")
            self.put([key], value, file)

    def put(self, path: Sequence[str], value: Any, file: str = "", append: bool = False) -> None:
        """Sets a value as jsonargparse does: a class keeps its arguments unless another one replaces it."""
        *above, last = [part for part in path if part != "init_args"] or ["init_args"]
        node, place = self._inner(self.values, ())
        for part in above:
            node[part] = _as_mapping(node.get(part))
            node, place = self._inner(node[part], (*place, part))
        if append and isinstance(node.get(last), list):
            value = [*node[last], *value]
        node[last] = self._merged(node.get(last), value, (*place, last), file)

    def _inner(self, node: Any, place: Place) -> tuple[dict[Any, Any], Place]:
        if not isinstance(node, list):
            return node, place
        node[-1:] = [_as_mapping(node[-1] if node else None)]  # (a flag with a further key is about the last item)
        return node[-1], (*place, len(node) - 1)

    def _merged(self, old: Any, new: Any, place: Place, file: str) -> Any:
        if not isinstance(new, dict):  # (what stood below is gone)
            self.files = {p: where for p, where in self.files.items() if p[: len(place)] != place}
        if isinstance(new, str) and new.endswith((".yaml", ".yml", ".json")) and Path(new).is_file():
            found = read_yaml(new, yaml_loader())
            if isinstance(found, dict) and (len(place) == 1 or "class_path" in found):  # (it stands for the value)
                file, new = str(new), found
        self.files[place] = file
        if isinstance(new, list):
            return [self._merged(None, item, (*place, i), file) for i, item in enumerate(new)]
        if isinstance(new, str) and isinstance(old, dict) and old.get("class_path") == new:
            return old
        if not isinstance(new, dict):
            return new
        old = {} if isinstance(old, list) else _as_mapping(old)
        inner = new.get("init_args")
        flat = {k: v for k, v in new.items() if k != "init_args"} | (inner if isinstance(inner, dict) else {})
        if old.get("class_path") != flat.get("class_path", old.get("class_path")):
            old = {}
        return old | {k: self._merged(old.get(k), v, (*place, k), file) for k, v in flat.items()}

    # --- the mistake ---

    def mistake(self, message: str) -> str:
        """The first value that no setting takes, in one line; where all fit, what jsonargparse said.

        Args:
            message: of jsonargparse.
        """
        found = self._of_group(self.accepted, self.values, (), "are required" in message)
        return next(found, None) or _tidy(" ".join(message.split()))

    def wrong_null(self) -> str | None:
        """The first null where none can stand, in one line: jsonargparse takes it for a setting that is not given."""
        return next((line for line in self._of_group(self.accepted, self.values, (), False) if NULL in line), None)

    def _of_group(self, accepted: Mapping[str, Any], values: Mapping[str, Any], at: Place, need: bool) -> Iterator[str]:
        for key, value in values.items():
            here = (*at, key)
            if key not in accepted:
                within = next(
                    (group for group in accepted if isinstance(accepted[group], dict) and key in accepted[group]), ""
                )
                meant = hint(str(key), accepted, "there are", self._before(here))
                meant = f"; did you mean {self._before(here)}{within}.{key}?" if within else meant
                yield f"{self._name(here)}: unknown{meant}"
            elif not isinstance(accepted[key], dict):
                yield from self._of_value(accepted[key], value, here, need)
            elif isinstance(value, dict):
                yield from self._of_group(accepted[key], value, here, need)
            else:
                yield f"{self._name(here)} {shown(value)}: give its settings one by one, e.g. --{key}.NAME VALUE"

    def _of_value(self, kind: Any, value: Any, at: Place, need: bool) -> Iterator[str]:
        """Mistakes in the value of a setting of this type."""
        kinds = members(kind)
        bases, given = classes(kinds)
        record = next(filter(is_record, kinds), None)
        if isinstance(value, Text) and value == "null":
            value = None
        if isinstance(value, Text) and value[:1] in ("[", "{"):
            value = _structure(value)
        if isinstance(value, dict):
            mapping = next((k for k in kinds if origin(k) in MAPPINGS), None)
            if mapping is not None:
                for key, item in value.items():
                    yield from self._of_value((*typing.get_args(mapping), Any, Any)[1], item, (*at, key), need)
                return
            if record or bases:
                yield from self._of_object(record, bases, given, value, at, need)
                return
        elif isinstance(value, list):
            within = next((typing.get_args(k) or (Any,) for k in kinds if origin(k) in LISTS), None)
            if within is not None:
                for i, item in enumerate(value):
                    each = within[0] if within[-1] is Ellipsis else within[min(i, len(within) - 1)]
                    yield from self._of_value(each, item, (*at, i), need)
                return
        elif isinstance(value, str) and bases and str not in kinds and value not in ("true", "false", "null"):
            yield from self._of_object(None, bases, given, {"class_path": str(value)}, at, need)
            return
        if not fits(kind, value):
            yield f"{self._name(at)} {shown(value)}: give {words(kinds)}"

    def _of_object(
        self, record: Any, bases: tuple[type, ...], given: int, value: dict[str, Any], at: Place, need: bool
    ) -> Iterator[str]:
        """Mistakes in ``{class_path: ..., NAME: VALUE}``, or in the fields of a record."""
        path, made, problem = value.get("class_path"), record, ""
        if path is not None:
            made, problem = resolve(path, bases)
            if problem:
                yield f"{self._name(at)} {shown(path)}: {problem}"
        elif record is None:  # (of the default's class, which stands nowhere: the first that takes all will do)
            able = (resolve(known, bases)[0] for known in choices(bases))
            made = next((one for one in able if set(value) <= set(parameters(one))), None)
            if made is None:
                wrong = next(iter(value), "")
                there = hint("", choices(bases), "give its class_path, one of")
                yield f"{self._name((*at, wrong))}: no class is named that has it{there}"
        if made is None:
            return
        known = dict(list(parameters(made).items())[0 if record else given :])
        name = path if path is not None and "." in str(path) else made.__name__
        for key, item in value.items():
            here = (*at, key)
            if key in known:
                yield from self._of_value(known[key].kind, item, here, need)
            elif key not in ("class_path", "dict_kwargs"):
                taken = [*known, *(name for name in CLASS_KEYS if name.startswith(str(key)[:5]))]
                yield f"{self._name(here)}: {name} has no {key}{hint(str(key), taken, 'it has', self._before(here))}"
        absent = [key for key, parameter in known.items() if parameter.required and key not in value]
        if need and absent:
            flag = (*at, absent[0])
            yield f"{self._name(at)}: {name} needs {' and '.join(absent)}; give {self._before(flag)}{absent[0]}"

    def _file(self, place: Place) -> str:
        return next((self.files[place[:n]] for n in range(len(place), 0, -1) if place[:n] in self.files), "")

    def _name(self, place: Place) -> str:
        """A setting as its flag, or as the file it stands in and its key: ``a.yaml: trainer.callbacks[0].monitor``."""
        if not self._file(place):
            return f"--{'.'.join(str(part) for part in place if not isinstance(part, int))}"
        key = ".".join(f"[{part}]" if isinstance(part, int) else str(part) for part in place)
        return f"{self._file(place)}: {key.replace('.[', '[')}"

    def _before(self, place: Place) -> str:
        """What stands before the last name of a setting where it is a flag."""
        return "" if self._file(place) else self._name(place).removesuffix(str(place[-1]))


def _as_mapping(value: Any) -> Any:
    """A value that gets further keys: what may be a class path becomes the class."""
    if isinstance(value, (dict, list)):
        return value
    return {"class_path": str(value)} if isinstance(value, str) and re.fullmatch(r"[\w.]+", value) else {}


def _structure(text: Text) -> Any:
    """The list or mapping that a flag's value is; a text that is none stays."""
    import yaml

    try:
        found = yaml.load(str(text), yaml_loader())
    except yaml.YAMLError:
        return text
    return found if isinstance(found, (list, dict)) else text


def _tidy(message: str) -> str:
    """What jsonargparse says, where nothing better was found: the innermost key and reason."""
    lacks = re.fullmatch(r"the following arguments are required: (.*)", message)
    if lacks:
        command, *_ = lacks[1].partition(".")
        flags = " and ".join(f"--{name.partition('.')[2]}" for name in lacks[1].split(", "))
        return f"give {flags}, or a --config that has them; `kdse {command} --help` lists what there is"
    unknown = re.fullmatch(r"unrecognized arguments: (.*)", message)
    if unknown:
        return f"{unknown[1]}: unknown; a setting is written --NAME=VALUE"
    keys = re.findall(r'Parser key "([^"]+)"', message)
    reason = re.split(r'Parser key "[^"]+":', message)[-1]
    reason = re.split(r"Given value type:|Subclass types expect|Subtypes:", reason)[0].strip()[:150]
    if reason.startswith("Does not validate against any"):  # (all fit in the end, so one came too early)
        reason = "does not fit its class; name a class before its settings (--data CLASS --data.NAME=VALUE)"
    return f"--{'.'.join(keys)}: {reason}" if keys else reason
