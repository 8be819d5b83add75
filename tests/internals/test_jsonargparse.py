"""Each use of jsonargparse beyond its public API, against the installed release."""

from __future__ import annotations

from types import SimpleNamespace

import jsonargparse
import pytest
import yaml
from jsonargparse import ArgumentParser

from kdse.internals.jsonargparse import JSONARGPARSE, options, parameters, yaml_loader
from kdse.internals.library import MissingInternal
from tests.internals.absence import sentence


class Base:
    def __init__(self, width: int, name: str = "a") -> None:
        """Makes one.

        Args:
            width: how wide.
        """


class Derived(Base):
    def __init__(self, depth: float | None = None, **kwargs) -> None:
        super().__init__(**kwargs)


def test_parameters_are_followed_to_where_they_go_with_type_need_and_docstring():
    found = parameters(Derived)
    assert list(found) == ["depth", "width", "name"]
    assert (found["width"].kind, found["width"].required, found["width"].about) == (int, True, "how wide.")
    assert found["depth"].kind == float | None and not found["name"].required


def test_options_of_a_parser_are_its_dotted_names_with_types():
    parser = ArgumentParser()
    parser.add_argument("--a.b", type=list[int])
    assert options(parser)["a.b"] == list[int] and options(parser)["help"] is None


def test_the_loader_reads_numbers_as_jsonargparse_does():
    parser = ArgumentParser()
    parser.add_argument("--a", type=float | str)
    assert yaml.load("1e-3", yaml_loader()) == parser.parse_args(["--a=1e-3"]).a == 0.001


@pytest.mark.parametrize(
    ("call", "module", "name"),
    [
        (lambda: parameters(Base), "_parameter_resolvers", "get_signature_parameters"),
        (yaml_loader, "_loaders_dumpers", "get_yaml_default_loader"),
    ],
)
def test_an_internal_that_is_gone_is_named_with_versions_and_the_fix(call, module, name, monkeypatch):
    monkeypatch.delattr(getattr(jsonargparse, module), name)
    with pytest.raises(MissingInternal, match=sentence(JSONARGPARSE, name)):
        call()


def test_a_parser_without_actions_is_named_too():
    with pytest.raises(MissingInternal, match=sentence(JSONARGPARSE, "_actions")):
        options(SimpleNamespace())
