"""The argument parser of the tool commands."""

from __future__ import annotations

import argparse
from typing import NoReturn

from kdse.errors import UserError


class Parser(argparse.ArgumentParser):
    """Raises a mistake as a ValueError, which the command line prints in one line, instead of printing the usage.

    Args:
        prog: what the user types.
        description: what the command does.
        epilog: explanation and examples, printed as they are.
    """

    def __init__(self, prog: str, description: str, epilog: str) -> None:
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(prog=prog, description=description, epilog=epilog, formatter_class=formatter)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; `{self.prog} --help` explains")


def positive(text: str) -> float:
    """An argument's type: a finite number above zero."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}: must be more than zero and finite")
    return value
