"""What holds for all tests."""

import signal


def pytest_configure() -> None:
    """Takes signals that whoever started the tests ignores (nohup, a shell's ``&``): processes here inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
