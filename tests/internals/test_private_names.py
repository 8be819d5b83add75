"""Private names of other packages are used in kdse/internals and nowhere else."""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

import kdse

ROOT = Path(kdse.__file__).parent
FILES = [path for path in sorted(ROOT.rglob("*.py")) if path.parent.name != "internals"]
#: Names with an underscore that their owners document: named tuples', os._exit, ctypes' handle of a shared library,
#: arguments of torch.jit.save and load, and of ExecuTorch's EdgeCompileConfig.
DOCUMENTED = {"_replace", "_asdict", "_fields", "_exit", "_handle", "_extra_files", "_check_ir_validity"}
#: Closes a shared library, which ctypes itself never does.
MODULES = {"_ctypes"}


def private(name: object) -> bool:
    return (
        isinstance(name, str)
        and name.startswith("_")
        and name != "_"
        and not name.endswith("__")
        and name not in DOCUMENTED
    )


def own_names(tree: ast.AST) -> set[str]:
    """Private names that a file defines: functions, methods, fields, and attributes that it sets on self."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and is_self(node.value):
            found.add(node.attr)
    return {name for name in found if private(name)}


def is_self(node: ast.expr) -> bool:
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id == "super"
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


OWN_EVERYWHERE = set().union(*(own_names(ast.parse(path.read_text(encoding="utf-8"))) for path in FILES))


def foreign_uses(source: str) -> Iterator[str]:
    """Lines of a file that use a private name of something that kdse does not define."""
    tree = ast.parse(source)
    here = own_names(tree)
    for node in ast.walk(tree):
        names: list[object] = []
        if isinstance(node, ast.Attribute):  # (a class may inherit its own private names from another file)
            if node.attr not in (OWN_EVERYWHERE | here if is_self(node.value) else here):
                names = [node.attr]
        elif isinstance(node, ast.ImportFrom):
            module = (node.module or "").split(".")
            if module[0] not in ("kdse", "__future__"):
                names = [*module, *(alias.name for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [part for alias in node.names if alias.name not in MODULES for part in alias.name.split(".")]
        elif isinstance(node, ast.Call):
            names = [keyword.arg for keyword in node.keywords]
            if isinstance(node.func, ast.Name) and node.func.id in ("getattr", "setattr", "hasattr", "delattr"):
                names += [part.value for part in node.args[1:2] if isinstance(part, ast.Constant)]
        for name in filter(private, names):
            yield f"line {node.lineno}: {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_uses_a_private_name_of_another_package(path):
    found = list(foreign_uses(path.read_text(encoding="utf-8")))
    assert not found, f"{path}: move this into kdse/internals, with a test: {found}"


@pytest.mark.parametrize(
    "source",
    [
        "trainer._data_fetcher", "trainer.fit_loop._data_fetcher = 3", "from torch._decomp import table",
        "from onnxscript.rules import _no_op", "import torch._dynamo", "getattr(x, '_y', None)", "f(_hidden=1)",
        "class A(B):\n    def f(self):\n        return self._never_set_by_kdse", "super()._prepare_the_call()",
    ],
)  # fmt: skip
def test_the_search_finds_every_way_to_use_one(source):
    assert list(foreign_uses(source))


@pytest.mark.parametrize(
    "source",
    ["self._x = 1\nself._x", "a = b._replace(c=1)", "x.__dict__", "from kdse.a import _b", "def _f(): ...\nm._f()"],
)
def test_the_search_leaves_own_and_documented_names_alone(source):
    assert not list(foreign_uses(source))


def classes_on_foreign_ones() -> Iterator[tuple[type, list[type]]]:
    """Classes of kdse that derive from another package's, and the bases that do not come from kdse."""
    for path in FILES:
        if "(" not in path.read_text(encoding="utf-8") or path.name == "forkserver.py":
            continue  # (that one sets the signals of the process that imports it)
        name = ".".join(["kdse", *path.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__")
        with contextlib.suppress(ImportError):  # (an extra that is not installed)
            for item in vars(importlib.import_module(name)).values():
                if isinstance(item, type) and item.__module__ == name:
                    foreign = [base for base in item.__mro__ if base.__module__.partition(".")[0] != "kdse"]
                    yield item, [base for base in foreign if base.__module__ not in ("builtins", "typing", "abc")]


@functools.cache
def names_of(base: type) -> set[str]:
    try:
        written = own_names(ast.parse(inspect.getsource(base)))
    except (OSError, TypeError, SyntaxError):  # (not written in Python)
        written = set()
    return written | set(filter(private, vars(base)))


def test_no_class_takes_a_private_name_that_the_class_it_derives_from_has():
    clashes = []
    for item, bases in classes_on_foreign_ones():
        try:
            own = own_names(ast.parse(inspect.getsource(item)))
        except (OSError, SyntaxError):  # (a named tuple, say)
            continue
        for base in bases:
            taken = own & names_of(base)
            clashes += [f"{item.__module__}.{item.__name__}: {name} of {base.__name__}" for name in sorted(taken)]
    assert not clashes, f"overriding these changes the other package: {clashes}"
