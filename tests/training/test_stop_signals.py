"""The first signal asks a run to stop, Ctrl-C after it ends the process at once."""

from __future__ import annotations

import os
import signal

import pytest

from kdse.machine.processes import INTERRUPTED, STOPPED
from kdse.training.setting_checks import without
from kdse.training.stopping import StopSignals


@pytest.fixture
def stop():
    signals = StopSignals()
    signals.install()
    yield signals
    signals.restore()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, INTERRUPTED), (signal.SIGTERM, STOPPED)])
def test_the_first_signal_is_noted_and_the_next_ctrl_c_is_left_to_the_system(number, code, stop):
    stop.deferred = True
    os.kill(os.getpid(), number)
    assert (stop.received, stop.exit_code) == (number, code)
    stop.install()  # (Lightning's signals are taken again at every start of training)
    assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL
    os.kill(os.getpid(), signal.SIGTERM)  # a cluster sends several for one end
    assert stop.received == number


def test_before_training_a_signal_ends_the_process(stop):
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def test_a_run_that_was_started_to_ignore_ctrl_c_ignores_it():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    stop = StopSignals()
    stop.install()
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    stop.restore()


def test_the_command_that_goes_on_has_no_flag_that_would_start_anew():
    words = ["fit", "--config", "a.yaml", "--overwrite", "true", "--ckpt_path=b.ckpt", "--resume=false", "--x=1"]
    assert without(words, "--resume", "--overwrite", "--ckpt_path") == ["fit", "--config", "a.yaml", "--x=1"]
