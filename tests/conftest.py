"""What holds for all tests."""

import contextlib
import logging
import os
import random
import signal
import time

import numpy as np
import pytest
import torch

from kdse.machine.cache import cache_root

STARTED = time.time()


def pytest_configure() -> None:
    """Takes signals that whoever started the tests ignores (nohup, a shell's ``&``): processes here inherit that."""
    take_signals()


def take_signals() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Nothing that ran in this process before is seen, not by fixtures either: signals, logs, seeds, W&B, draws."""
    take_signals()
    logger = logging.getLogger("kdse")
    logger.handlers.clear()
    logger.propagate = True
    logger.setLevel(logging.NOTSET)
    logging.getLogger("lightning.pytorch").setLevel(logging.INFO)
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS", "WANDB_SERVICE"):
        os.environ.pop(name, None)
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Removes the decoded copies of small corpora, which are the tests' own, from the cache of whoever runs them."""
    if not hasattr(session.config, "workerinput"):
        for file in (cache_root() / "decoded").glob("*.samples*"):
            with contextlib.suppress(OSError):
                if file.stat().st_mtime >= STARTED and file.stat().st_size < 20e6:
                    file.unlink()
