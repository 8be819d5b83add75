"""Models of other toolkits answer as they do at home: the real package where it is installed, else a stand-in."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys

import pytest
import torch

from kdse.distiller import Distiller
from kdse.models.adapters import Asteroid, DeepFilterNet, Denoiser, SpeechBrain, _old_torchaudio
from kdse.models.aligned import Aligned
from kdse.models.checkpoint import describe, load_model
from kdse.objectives.output import OutputDistillation
from kdse.taps import probe, resolve_taps
from tests.models import fake_toolkits
from tests.toys import ToyData, make_student, make_trainer

HYPERPARAMS = """\
sample_rate: 16000
compute_stft: !new:speechbrain.processing.features.STFT {sample_rate: !ref <sample_rate>, n_fft: 512}
compute_istft: !new:speechbrain.processing.features.ISTFT {sample_rate: !ref <sample_rate>, n_fft: 512}
spectral_magnitude: !name:speechbrain.processing.features.spectral_magnitude {power: 0.5}
resynth: !name:speechbrain.processing.signal_processing.resynthesize
    stft: !ref <compute_stft>
    istft: !ref <compute_istft>
enhance_model: !new:speechbrain.lobes.models.MetricGAN.EnhancementGenerator {hidden_size: 200}
modules: {enhance_model: !ref <enhance_model>}
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables: {enhance_model: !ref <enhance_model>}
"""


FAKED = {name for name in ("asteroid", "speechbrain", "denoiser", "df") if importlib.util.find_spec(name) is None}


@pytest.fixture(autouse=True)
def toolkits(monkeypatch):
    """Stand-ins for those packages that are not installed."""
    for name, module in fake_toolkits.modules().items():
        if name.split(".")[0] in FAKED:
            monkeypatch.setitem(sys.modules, name, module)


def conv_tasnet(folder, rate=16000.0):
    ConvTasNet = importlib.import_module("asteroid.models").ConvTasNet
    small = dict(n_filters=8, n_blocks=1, n_repeats=1, bn_chan=4, hid_chan=4, skip_chan=4)
    network = ConvTasNet(n_src=2, sample_rate=rate, **small).eval()
    torch.save(network.serialize(), folder / "tasnet.pth")
    return network, str(folder / "tasnet.pth")


def demucs(folder, bare=False, rate=16000):
    package = importlib.import_module("denoiser.demucs")
    arguments = {"hidden": 4, "depth": 1}
    network = package.Demucs(**arguments, sample_rate=rate).eval()
    whole = importlib.import_module("denoiser.utils").serialize_model(network)
    torch.save(network.state_dict() if bare else whole, folder / "best.th")
    return network, str(folder / "best.th"), arguments


def metricgan(folder):
    network = importlib.import_module("speechbrain.lobes.models.MetricGAN").EnhancementGenerator()
    (folder / "sb").mkdir()
    torch.save(network.state_dict(), folder / "sb" / "enhance_model.ckpt")
    (folder / "sb" / "hyperparams.yaml").write_text(HYPERPARAMS)
    home = importlib.import_module("speechbrain.inference.enhancement").SpectralMaskEnhancement
    return home.from_hparams(str(folder / "sb"), run_opts={"device": "cpu"}).eval(), str(folder / "sb")


def deep_filter(folder):
    with _old_torchaudio():
        package = importlib.import_module("df.enhance")
    (folder / "df" / "checkpoints").mkdir(parents=True)
    (folder / "df" / "config.ini").write_text("[train]\nmodel = deepfilternet3\n")
    if "df" in FAKED:
        network, state = fake_toolkits.DfNet(), fake_toolkits.DF()
    else:
        network, state, _ = package.init_df(str(folder / "df"), log_file=None, log_level="ERROR", epoch="none")
    torch.save(network.state_dict(), folder / "df" / "checkpoints" / "model_1.ckpt.best")
    package.config.set("DEVICE", "cpu", str, section="train")
    return lambda noisy, **k: package.enhance(network.cpu().eval(), state, noisy, **k), str(folder / "df")


@pytest.mark.parametrize("source", [0, 1])
def test_asteroid_answers_as_at_home(tmp_path, source):
    network, path = conv_tasnet(tmp_path)
    model = Asteroid(path, source=source).eval()
    noisy = torch.randn(3, 4001)
    with torch.no_grad():
        torch.testing.assert_close(model(noisy).waveform, network(noisy)[:, source])
    assert model.sample_rate_hz == 16000 and not model.causal and model.brings_weights
    with pytest.raises(ValueError, match="source=5"):
        Asteroid(path, source=5)(noisy)


def test_an_asteroid_model_of_8_khz_says_so(tmp_path):
    assert Asteroid(conv_tasnet(tmp_path, rate=8000.0)[1]).sample_rate_hz == 8000


@pytest.mark.parametrize("bare", [False, True])
def test_denoiser_answers_as_at_home(tmp_path, bare):
    network, path, arguments = demucs(tmp_path, bare)
    model = Denoiser(path, init_args=arguments if bare else None).eval()
    noisy = torch.randn(3, 4001)
    with torch.no_grad():
        torch.testing.assert_close(model(noisy).waveform, network(noisy[:, None])[:, 0])
    assert model.sample_rate_hz == 16000 and not model.causal and model.brings_weights


def test_the_rate_in_a_denoiser_file_is_used(tmp_path):
    assert Denoiser(demucs(tmp_path, rate=48000)[1]).sample_rate_hz == 48000


def test_speechbrain_answers_as_at_home(tmp_path):
    network, path = metricgan(tmp_path)
    model = SpeechBrain(path).eval()
    noisy = torch.randn(3, 4001)
    with torch.no_grad():
        torch.testing.assert_close(model(noisy).waveform, network.enhance_batch(noisy, lengths=torch.ones(3)))
    assert model.sample_rate_hz == 16000 and not model.causal and model.brings_weights
    with pytest.raises(ValueError, match="interface='Nothing'"):
        SpeechBrain(path, interface="Nothing")


def test_deepfilternet_answers_as_at_home(tmp_path):
    expected, path = deep_filter(tmp_path)
    noisy = 0.1 * torch.randn(3, 9601)
    model = DeepFilterNet(path).eval()
    torch.testing.assert_close(model(noisy).waveform, expected(noisy))
    limited = DeepFilterNet(path, attenuation_limit_db=12.0).eval()
    torch.testing.assert_close(limited(noisy).waveform, expected(noisy, atten_lim_db=12.0))
    assert model.sample_rate_hz == 48000 and not model.causal and model.brings_weights


def every(folder):
    return [
        Asteroid(conv_tasnet(folder)[1]),
        Denoiser(demucs(folder)[1]),
        SpeechBrain(metricgan(folder)[1]),
        DeepFilterNet(deep_filter(folder)[1]),
    ]


def test_any_length_gives_a_finite_answer_of_that_length(tmp_path):
    for model in every(tmp_path):
        for samples in (1, 7, 100, 3001):
            with torch.no_grad():
                wave = model.eval()(torch.randn(2, samples)).waveform
            assert wave.shape == (2, samples) and wave.isfinite().all(), type(model).__name__


def test_a_checkpoint_that_names_an_adapter_needs_trust(tmp_path):
    for model in every(tmp_path):
        content = {"state_dict": {f"model.{k}": v for k, v in model.state_dict().items()}, "kdse": describe(model)}
        torch.save(content, tmp_path / "a.ckpt")
        with pytest.raises(ValueError, match="--trust-code"):
            load_model(tmp_path / "a.ckpt")
        assert type(load_model(tmp_path / "a.ckpt", trust_code=True)) is type(model)


@pytest.mark.parametrize(
    ("build", "module", "package"),
    [
        (lambda: Asteroid("x"), "asteroid.models.base_models", "asteroid"),
        (lambda: SpeechBrain("x"), "speechbrain.inference.enhancement", "speechbrain"),
        (lambda: Denoiser(), "denoiser.demucs", "denoiser"),
        (lambda: DeepFilterNet(), "df.enhance", "deepfilternet"),
    ],
)
def test_a_missing_package_is_named(monkeypatch, build, module, package):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=f"pip install {package}$"):
        build()


def test_what_cannot_be_loaded_is_named(tmp_path):
    text = tmp_path / "text.th"
    text.write_text("hello")
    empty = tmp_path / "empty"
    (empty / "checkpoints").mkdir(parents=True)
    (empty / "config.ini").write_text("[train]\nmodel = deepfilternet3\n")
    for build in (Asteroid, Denoiser, SpeechBrain):
        with pytest.raises(ValueError, match="text.th' cannot be loaded"):
            build(str(text))
    with pytest.raises(ValueError, match="empty' cannot be loaded .it found no weights"):
        DeepFilterNet(str(empty))
    with pytest.raises(ValueError, match="nor dns48"):
        Denoiser("dns999")


def test_files_that_hold_other_python_objects_are_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (exec, (f"open({str(tmp_path / 'sprung')!r}, 'w')",))

    torch.save({"state_dict": Trap(), "state": Trap()}, tmp_path / "trap.th")
    for build in (Asteroid, Denoiser):
        with pytest.raises(ValueError, match="trap.th.*could run code"):
            build(str(tmp_path / "trap.th"))
    assert not (tmp_path / "sprung").exists()


@pytest.mark.integration
def test_importing_the_adapters_imports_no_toolkit():
    code = (
        "import sys, kdse.models.adapters, kdse.models.onnx, kdse.models.torchscript, kdse.models.aligned; "
        "print([m for m in ('asteroid', 'speechbrain', 'denoiser', 'df', 'onnxruntime', 'torchaudio') "
        "if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_stand_in_for_an_old_torchaudio_is_gone_after_the_import():
    with _old_torchaudio():
        assert importlib.import_module("torchaudio.backend.common").AudioMetaData
    assert "torchaudio.backend.common" not in sys.modules or importlib.util.find_spec("torchaudio.backend")


def test_modules_of_an_adapted_network_can_be_tapped(tmp_path):
    model = Denoiser(demucs(tmp_path)[1])
    taps = resolve_taps(model, {"first": {"path": "network.encoder.0", "layout": "b c t"}})
    assert probe(model, taps, 4000)["first"][:2] == (1, 4)


def test_an_adapted_teacher_trains_a_student_through_alignment(tmp_path):
    teachers = [Asteroid(conv_tasnet(tmp_path)[1]), SpeechBrain(metricgan(tmp_path)[1])]
    for inner in [*teachers, DeepFilterNet(deep_filter(tmp_path)[1])]:
        student = make_student()
        before = [p.clone() for p in student.parameters()]
        teacher = Aligned(inner, delay_samples=0, gain=1.0)
        make_trainer(tmp_path, [OutputDistillation()], max_steps=1).fit(
            Distiller(teacher=teacher, student=student, metrics=["si_sdr"]), ToyData(items=4)
        )
        assert any(not torch.equal(a, b) for a, b in zip(before, student.parameters(), strict=True))
