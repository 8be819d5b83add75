"""`Library`: a package of which kdse uses more than its public API, and the error for an upgrade that takes that away.

Such uses stand in one module a package; `tests/internals` checks each against the installed version.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from kdse.errors import UserError


class MissingInternal(UserError):
    """A library lacks what kdse uses beyond its public API."""


@dataclass(frozen=True)
class Library:
    """One package: its name, the versions that kdse was tested with, and what to ask pip for."""

    package: str
    tested: str
    requirement: str

    def get(self, owner: Any, name: str, shown: str | None = None) -> Any:
        """An attribute of an object, class or module; ``shown`` is what the error calls it (None: "Owner.name").

        Raises:
            MissingInternal: if it is not there.
        """
        try:
            return getattr(owner, name)
        except AttributeError:
            place = getattr(owner, "__name__", None) or type(owner).__name__
            raise self.missing(shown or f"{place}.{name}") from None

    def put(self, owner: Any, name: str, value: Any) -> None:
        """Sets an attribute; one that is not there is a `MissingInternal`: setting it would do nothing."""
        self.get(owner, name)
        setattr(owner, name, value)

    def load(self, module: str, name: str) -> Any:
        """A name of an undocumented module: `MissingInternal` if either is gone, ImportError without the package."""
        importlib.import_module(module.partition(".")[0])
        try:
            found = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise  # (something else that the module needs)
            raise self.missing(f"{module}.{name}") from None
        return self.get(found, name, f"{module}.{name}")

    def missing(self, what: str) -> MissingInternal:
        """The error for something that is gone."""
        try:
            version = metadata.version(self.package)
        except metadata.PackageNotFoundError:
            version = "of unknown version"
        return MissingInternal(
            f"{self.package} {version} has no {what}, which kdse needs (tested with {self.package} {self.tested}); "
            f"pip install '{self.requirement}'"
        )
