"""What holds for all tests."""

import logging
import os
import signal

import pytest


def pytest_configure() -> None:
    """Takes signals that whoever started the tests ignores (nohup, a shell's ``&``): processes here inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def as_in_a_new_process() -> None:
    """No test sees what a command line that ran in this process before it has set up: its log and its seed."""
    logger = logging.getLogger("kdse")
    logger.handlers.clear()
    logger.propagate = True
    logger.setLevel(logging.NOTSET)
    os.environ.pop("PL_GLOBAL_SEED", None)
