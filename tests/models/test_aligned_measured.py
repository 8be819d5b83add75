"""What `Aligned` believes of a measurement, what it says of it, and what it measures on."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import soundfile
import torch

from kdse.audio.alignment import fit_length
from kdse.models.aligned import Aligned
from kdse.models.base import Estimate, SpeechModel
from tests.models.test_aligned import Late


def test_a_teacher_that_distorts_the_probe_is_not_corrected_unless_less_is_asked_for():
    class Suppressing(SpeechModel):
        """Lets every other block of 0.1 s through: half of the energy, so a correlation of 0.7."""

        def forward(self, noisy):
            return Estimate(noisy * (torch.arange(noisy.shape[1]) % 3200 < 1600))

    with pytest.raises(ValueError, match=r"correlation of only 0\.\d+ .*minimum_correlation=0\.9.*by hand"):
        Aligned(Suppressing()).measure()
    assert Aligned(Suppressing(), minimum_correlation=0.5).measure().correlation == pytest.approx(0.7, abs=0.1)


def test_a_teacher_whose_level_follows_its_input_is_named(caplog):
    class Normalising(SpeechModel):
        def forward(self, noisy):
            return Estimate(0.1 * noisy / noisy.square().mean(1, keepdim=True).sqrt())

    with caplog.at_level(logging.WARNING, logger="kdse.models.aligned"):
        found = Aligned(Normalising()).measure()
        assert found.gain == pytest.approx(10 ** (5 / 20), rel=0.01)  # that of the middle level, -25 dB
        assert len(caplog.records) == 1 and 'gain: "each"' in caplog.text
        Aligned(Normalising(), gain="each").measure()
        Aligned(Late(3, 0.5)).measure()
    assert len(caplog.records) == 1


def test_a_gate_that_quiet_speech_does_not_open_is_measured_on_the_other_levels():
    class Gate(SpeechModel):
        def forward(self, noisy):
            return Estimate(0.5 * noisy * (noisy.square().mean() > 10 ** (-30 / 10)))

    found = Aligned(Gate()).measure()
    assert found.delay_samples == 0 and found.gain == pytest.approx(0.5, rel=1e-3)


def test_a_recording_can_be_the_probe(tmp_path):
    class OnlyNoise(SpeechModel):
        """Suppresses what is not like the recording: here, all below 1 kHz."""

        def forward(self, noisy):
            spectrum = torch.fft.rfft(noisy)
            spectrum[:, : spectrum.shape[1] // 8] = 0
            return Estimate(fit_length(0.5 * torch.fft.irfft(spectrum, noisy.shape[1]), noisy.shape[1], -9))

    time = np.arange(40000) / 16000
    chirp = 0.1 * np.sin(2 * np.pi * (2000 + 400 * time) * time)
    soundfile.write(tmp_path / "probe.wav", chirp, 16000)
    found = Aligned(OnlyNoise(), probe=str(tmp_path / "probe.wav")).measure()
    assert found.delay_samples == 9 and found.gain == pytest.approx(0.5, rel=0.01)
    soundfile.write(tmp_path / "silence.wav", np.zeros(8000), 16000)
    with pytest.raises(ValueError, match="silent"):
        Aligned(OnlyNoise(), probe=str(tmp_path / "silence.wav")).measure()
    with pytest.raises(ValueError, match="no such file"):
        Aligned(OnlyNoise(), probe=str(tmp_path / "none.wav"))
