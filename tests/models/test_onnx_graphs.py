"""ONNX graphs on frames are models: equal to a plain loop over hops, streaming or not, declared or recognised."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kdse.errors import UserError
from kdse.models import Aligned, OnnxSpectral, OnnxStream
from kdse.models.checkpoint import describe, load_model
from kdse.models.front_ends import KNOWN
from kdse.models.onnx import Onnx
from kdse.models.onnx_ports import axes_of
from kdse.models.streaming import Streamer, can_stream
from tests.public_teachers import weights

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

TRANSFORM, HOP = 64, 16
BINS = TRANSFORM // 2 + 1
#: What toy graphs take and give, and the shape of it.
KINDS = {
    "spectrum": ("spectrum", [1, BINS, 1, 2]),
    "mask": ("spectrum", [1, 2, BINS, 1]),
    "gain": ("magnitude", [1, 1, BINS]),
    "log gain": ("log_power", [1, BINS]),
    "frame": ("frame", [1, 1, TRANSFORM]),
    "waveform": ("waveform", [1, HOP]),
}


def toy(folder, shape, states=("memory", "memory_out"), name="toy.onnx", more=()) -> str:
    """``y = (x / 2 + s / 4) * (1 + n / 8)``, and the next states ``s' = x`` (float) and ``n' = n + 1`` (int64)."""
    from onnx import TensorProto, helper, numpy_helper

    value, (old, new) = helper.make_tensor_value_info, states
    inputs = [value("x", 1, shape), value(old, 1, shape), value("n_in", TensorProto.INT64, [1])]
    inputs += [value(extra, 1, shape) for extra in more]
    outputs = [value("y", 1, shape), value(new, 1, shape), value("n_out", TensorProto.INT64, [1])]
    outputs += [value(f"other{i}", 1, shape) for i, _ in enumerate(more)]
    constants = [
        numpy_helper.from_array(np.asarray(number, kind), text)
        for text, number, kind in (
            ("half", 0.5, "f4"), ("quarter", 0.25, "f4"), ("eighth", 0.125, "f4"), ("one", 1, "f4"),
            ("step", [1], "i8"),
        )
    ]  # fmt: skip
    node = helper.make_node
    nodes = [
        node("Mul", ["x", "half"], ["a"]), node("Mul", [old, "quarter"], ["b"]), node("Add", ["a", "b"], ["c"]),
        node("Cast", ["n_in"], ["k"], to=TensorProto.FLOAT), node("Mul", ["k", "eighth"], ["m"]),
        node("Add", ["m", "one"], ["scale"]), node("Mul", ["c", "scale"], ["y"]), node("Identity", ["x"], [new]),
        node("Add", ["n_in", "step"], ["n_out"]), *(node("Identity", [e], [f"other{i}"]) for i, e in enumerate(more)),
    ]  # fmt: skip
    graph = helper.make_graph(nodes, "toy", inputs, outputs, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / name)
    return str(folder / name)


def halved(folder, shape) -> str:
    """A graph without state that halves what it takes."""
    from onnx import helper, numpy_helper

    value = helper.make_tensor_value_info
    half = numpy_helper.from_array(np.float32(0.5), "half")
    nodes = [helper.make_node("Mul", ["x", "half"], ["y"])]
    graph = helper.make_graph(nodes, "halved", [value("x", 1, shape)], [value("y", 1, shape)], [half])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "halved.onnx"
    )
    return str(folder / "halved.onnx")


def window_of(kind: str, samples: int) -> np.ndarray:
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(samples) / samples)
    return {"hann": hann, "sqrt_hann": np.sqrt(hann), "ones": np.ones(samples)}[kind]


def plain_loop(x, network, transform, hop, window, centred=True, added=False):
    """Hops into a buffer, a transform, the network, the inverse and overlap-add, in float64.

    ``added``: the network gives samples of frames, to be added as they are.
    """
    w = window_of(window, transform)
    power = (w**2).reshape(-1, hop).sum(0)
    overlap = transform // hop
    hops = -(-len(x) // hop) + overlap - 1
    padded = np.concatenate([x, np.zeros(hops * hop - len(x))])
    buffer, out = np.zeros(transform), np.zeros(hops * hop + transform)
    for t in range(hops):
        buffer = np.concatenate([buffer[hop:], padded[t * hop : (t + 1) * hop]])
        if not centred and t < overlap - 1:
            continue
        answer = network(np.fft.rfft(buffer * w))
        frame = answer if added else np.fft.irfft(answer) * w / np.tile(power, overlap)
        out[t * hop : t * hop + transform] += frame
    return out[transform - hop : transform - hop + len(x)]


def parts(bins):
    return np.stack([bins.real, bins.imag], -1)


class Toy:
    """The network of `toy` on complex bins, from its definition."""

    def __init__(self, kind):
        self.kind, self.n, self.before = kind, 0, 0.0

    def __call__(self, bins):
        heard = {
            "spectrum": lambda: bins,
            "mask": lambda: bins,
            "gain": lambda: np.abs(bins),
            "log gain": lambda: np.log10(np.maximum(np.abs(bins) ** 2, 1e-12)),
            "frame": lambda: np.fft.irfft(bins),
            "waveform": lambda: bins,
        }[self.kind]()
        answer = (heard / 2 + self.before / 4) * (1 + self.n / 8)
        self.n, self.before = self.n + 1, heard
        return answer * bins if self.kind in ("mask", "gain", "log gain") else answer


def noisy(items=2, samples=300, seed=0):
    return 0.1 * torch.randn(items, samples, generator=torch.Generator().manual_seed(seed))


def streamed(model, wave, pieces=77):
    streamer = Streamer(model, wave.shape[0])
    return torch.cat([*(streamer.push(part) for part in wave.split(pieces, dim=1)), streamer.flush()], dim=1)


@pytest.mark.parametrize("window", ["sqrt_hann", "hann", "ones"])
@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "waveform"])
def test_a_declared_graph_equals_a_plain_loop_over_hops_as_a_whole_and_in_pieces(tmp_path, kind, window, centred):
    takes, shape = KINDS[kind]
    gives = "gain" if kind == "log gain" else kind
    model = OnnxStream(toy(tmp_path, shape), takes, gives, TRANSFORM, HOP, window, centred=centred, threads=2)
    heard = noisy()
    expected = [
        plain_loop(row, Toy(kind), TRANSFORM, HOP, window, centred, kind == "frame") for row in heard.double().numpy()
    ]
    found = model(heard).waveform
    torch.testing.assert_close(found, torch.from_numpy(np.stack(expected)).float(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(streamed(model, heard), found, atol=1e-6, rtol=1e-6)


def test_a_graph_of_waveform_hops_equals_a_plain_loop(tmp_path):
    model = OnnxStream(toy(tmp_path, KINDS["waveform"][1]), "waveform", hop=HOP)
    heard = noisy(samples=10 * HOP)
    expected = []
    for row in heard.double().numpy():
        network = Toy("waveform")
        expected.append(np.concatenate([network(hop) for hop in row.reshape(-1, HOP)]))
    torch.testing.assert_close(model(heard).waveform, torch.from_numpy(np.stack(expected)).float())
    torch.testing.assert_close(streamed(model, heard), model(heard).waveform)
    assert (model.latency_samples, model.lookahead_samples) == (HOP, HOP - 1)


@pytest.mark.parametrize("samples", [1, HOP, 10 * HOP + 3])
def test_the_answer_is_as_long_as_the_input_and_depends_on_no_more_than_the_declared_lookahead(tmp_path, samples):
    model = OnnxStream(toy(tmp_path, KINDS["spectrum"][1]), "spectrum", None, TRANSFORM, HOP, "sqrt_hann")
    assert (model.causal, model.latency_samples, model.lookahead_samples) == (True, TRANSFORM, TRANSFORM - 1)
    one = noisy(1, samples)
    other = one.clone()
    other[:, -1] += 1
    difference = (model(one).waveform - model(other).waveform).abs()[0]
    assert difference.shape == (samples,) and not difference[: max(0, samples - TRANSFORM)].any()


@pytest.mark.parametrize("shape", [["b", "t", BINS], [1, 1, "t", BINS], ["b", BINS, "t"]])
@pytest.mark.parametrize("window", ["sqrt_hann", "hann"])
def test_a_graph_of_whole_signals_gets_all_frames_whatever_the_order_of_its_axes(tmp_path, shape, window):
    model = OnnxSpectral(halved(tmp_path, shape), "magnitude", None, TRANSFORM, HOP, window, causal=True)
    heard = noisy(3)
    bins = lambda x: np.abs(x) / 2 * x  # noqa: E731 (the gain is half the magnitude)
    expected = [plain_loop(row, bins, TRANSFORM, HOP, window) for row in heard.double().numpy()]
    torch.testing.assert_close(model(heard).waveform, torch.from_numpy(np.stack(expected)).float(), atol=1e-6, rtol=0)
    assert not can_stream(model) and model.latency_samples == TRANSFORM


def test_graphs_in_a_row_hear_each_others_answers(tmp_path):
    files = [toy(tmp_path, KINDS[kind][1], name=f"{i}.onnx") for i, kind in enumerate(("gain", "frame"))]
    model = OnnxStream(files, ["magnitude", "frame"], ["gain", "frame"], TRANSFORM, HOP, "ones")
    first, second = Toy("gain"), Toy("frame")
    heard = noisy(1)
    expected = plain_loop(
        heard[0].double().numpy(), lambda bins: second(first(bins)), TRANSFORM, HOP, "ones", added=True
    )
    torch.testing.assert_close(model(heard).waveform[0], torch.from_numpy(expected).float(), atol=1e-5, rtol=1e-5)
    folder = OnnxStream(str(tmp_path), ["magnitude", "frame"], None, TRANSFORM, HOP, "ones")
    torch.testing.assert_close(folder(heard).waveform, model(heard).waveform)


def test_a_state_is_paired_by_name_or_shape_and_never_guessed(tmp_path):
    front = {"takes": "spectrum", "transform": TRANSFORM, "hop": HOP, "window": "hann"}
    shape = KINDS["spectrum"][1]
    unlike = toy(tmp_path, shape, ("memory", "tf_layer_7"))  # (the only float state: its shape tells)
    assert OnnxStream(unlike, **front)(noisy()).waveform.abs().sum() > 0
    two = toy(tmp_path, shape, ("memory", "tf_layer_7"), "two.onnx", more=["extra"])
    with pytest.raises(UserError, match=r"next value of memory, extra.*states=\{INPUT: OUTPUT\}"):
        OnnxStream(two, **front)
    told = OnnxStream(two, **front, states={"memory": "tf_layer_7", "extra": "other0"})
    constant = OnnxStream(two, **front, constants={"extra": 1.0}, states={"memory": "tf_layer_7"})
    for model in (told, constant):
        torch.testing.assert_close(model(noisy()).waveform, OnnxStream(unlike, **front)(noisy()).waveform)


def test_an_unknown_interface_is_answered_with_inputs_outputs_and_what_describes_them(tmp_path):
    path = toy(tmp_path, KINDS["spectrum"][1])
    for build in (OnnxStream, load_model):
        with pytest.raises(UserError) as refused:
            build(path)
        for said in ("x float [1, 33, 1, 2]", "n_in int64 [1]", "memory_out float", "takes (spectrum, magnitude,",
                     "transform, hop and window (sqrt_hann, hann, ones)", "--init hop=256"):  # fmt: skip
            assert said in str(refused.value)


def test_what_does_not_fit_a_graph_is_named(tmp_path):
    path, front = toy(tmp_path, KINDS["spectrum"][1]), {"transform": TRANSFORM, "hop": HOP, "window": "hann"}
    for said, settings in {
        "nothing fits takes='magnitude'": {"takes": "magnitude", "transform": 60},
        "takes='sound'": {"takes": "sound"},
        "window='flat'": {"takes": "spectrum", "window": "flat"},
        "is for 2 graphs, not 1": {"takes": ["spectrum", "frame"]},
        "a waveform goes with no frames": {"takes": "waveform", "gives": "spectrum"},
        "states and constants: sr is no input; there are x": {"takes": "spectrum", "constants": {"sr": 1.0}},
        "states: z is no output": {"takes": "spectrum", "states": {"memory": "z"}},
        "holds no .onnx file": {"path": str(tmp_path / "empty"), "takes": "spectrum"},
    }.items():
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(UserError) as refused:
            OnnxStream(**({"path": path} | front | settings))
        assert said in str(refused.value)
    with pytest.raises(UserError, match="keeps state; use kdse.models.OnnxStream"):
        OnnxSpectral(path, "spectrum", **front)
    with pytest.raises(UserError, match="kdse.models.OnnxSpectral"):
        OnnxStream(halved(tmp_path, ["b", "t", BINS]), "magnitude", **front)
    with pytest.raises(UserError, match="3 inputs .*kdse.models.OnnxStream"):
        Onnx(path)


def test_a_checkpoint_that_names_a_graph_needs_trust(tmp_path):
    model = OnnxStream(toy(tmp_path, KINDS["spectrum"][1]), "spectrum", None, TRANSFORM, HOP, "hann")
    content = {"state_dict": {f"model.{k}": v for k, v in model.state_dict().items()}, "kdse": describe(model)}
    torch.save(content, tmp_path / "stream.ckpt")
    with pytest.raises(UserError, match="--trust-code"):
        load_model(tmp_path / "stream.ckpt")
    loaded = load_model(tmp_path / "stream.ckpt", trust_code=True)
    torch.testing.assert_close(loaded(noisy()).waveform, model(noisy()).waveform)


def test_another_rate_is_served_by_aligned(tmp_path):
    model = OnnxStream(toy(tmp_path, KINDS["waveform"][1]), "waveform", hop=HOP, sample_rate_hz=48000)
    tone = 0.1 * torch.sin(2 * torch.pi * 440 * torch.arange(1600) / 16000)[None]
    wave = Aligned(model, 16000, delay_samples=0, gain=1.0)(tone).waveform
    assert wave.shape == tone.shape and wave.abs().max() > 0.05


@pytest.mark.parametrize(
    ("shape", "width", "complex_parts", "axes"),
    [
        ([1, 257, 1, 2], 257, True, "bftc"), ([1, 1, 257], 257, False, "btf"), (["b", "t", 161], 161, False, "btf"),
        ([1, 1, "S", 257], 257, False, "b1tf"), ([1, 2, 257, 1], 257, True, "bcft"), ([1, 512], 512, False, "bf"),
        ([1, 2, 128, 2], 257, False, ""), ([3, 257], 257, False, ""), ([1, 257], 257, True, ""),
    ],
)  # fmt: skip
def test_axes_are_read_off_the_shape(shape, width, complex_parts, axes):
    assert "".join(axes_of(shape, width, complex_parts)) == axes


@pytest.mark.parametrize(("shape", "time"), [(["T", 1, BINS], 0), (["T", "batch", BINS], 0), (["T", BINS], 0)])
def test_time_may_be_the_first_axis_of_a_graph_for_whole_signals(shape, time, tmp_path):
    from onnx import helper, numpy_helper

    def sums(name, shape, time, out=None) -> OnnxSpectral:  # a gain that depends on all frames so far
        value, axis = helper.make_tensor_value_info, numpy_helper.from_array(np.int64(time), "axis")
        nodes = [helper.make_node("CumSum", ["x", "axis"], ["s"]), helper.make_node("Sigmoid", ["s"], ["y"])]
        graph = helper.make_graph(nodes, "sums", [value("x", 1, shape)], [value("y", 1, out or shape)], [axis])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.save(model, tmp_path / name)
        return OnnxSpectral(str(tmp_path / name), "magnitude", transform=TRANSFORM, hop=HOP, window="sqrt_hann")

    heard = noisy(2, 400, seed=1)
    expected = sums("batch_first.onnx", ["batch", "T", BINS], 1)(heard).waveform
    assert not torch.allclose(expected, heard / 2, atol=1e-2)
    torch.testing.assert_close(sums("time_first.onnx", shape, time)(heard).waveform, expected)
    if shape.count("batch"):  # axes of the answer that are taken for others
        with pytest.raises(UserError, match=r"2 items \(b\) of 28 frames"):
            sums("unnamed.onnx", shape, time, ["p", "q", BINS])(heard)


# --- the published graphs ---


def session(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def caches(run):
    """A network of complex bins from a graph with `mix`, three caches and their next values."""
    state = {entry.name: np.zeros(entry.shape, np.float32) for entry in run.get_inputs()[1:]}

    def network(bins):
        mix = parts(bins)[None, :, None].astype(np.float32)
        answer, *after = run.run(None, {"mix": mix, **state})
        state.update(zip(state, after, strict=True))
        return answer[0, :, 0, 0] + 1j * answer[0, :, 0, 1]

    return network


def two_of_dtln(first, second):
    states = [np.zeros((1, 2, 128, 2), np.float32)] * 2

    def network(bins):
        magnitude = np.abs(bins)[None, None].astype(np.float32)
        gain, states[0] = first.run(None, {"input_2": magnitude, "input_3": states[0]})
        frame = np.fft.irfft(bins * gain[0, 0])[None, None].astype(np.float32)
        answer, states[1] = second.run(None, {"input_4": frame, "input_5": states[1]})
        return answer[0, 0]

    return network


LOOPS = {
    "gtcrn": lambda x, run: plain_loop(x, caches(run), 512, 256, "sqrt_hann"),
    "ul-unas": lambda x, run: plain_loop(x, caches(run), 512, 256, "hann"),
    "dtln": lambda x, *runs: plain_loop(x, two_of_dtln(*runs), 512, 128, "ones", added=True),
}


@pytest.mark.parametrize("name", LOOPS)
def test_a_published_streaming_graph_is_recognised_and_equals_a_plain_loop(name, monkeypatch):
    files = weights(name, monkeypatch)
    heard = noisy(2, 4000, seed=3)
    expected = [LOOPS[name](row, *map(session, files)) for row in heard.double().numpy()]
    model = load_model(files[0] if len(files) == 1 else str(files[0].rpartition("/")[0]))
    torch.testing.assert_close(model(heard).waveform, torch.from_numpy(np.stack(expected)).float(), atol=1e-5, rtol=0)
    assert can_stream(model) and model.declared == load_model(name).declared
    torch.testing.assert_close(streamed(model, heard), model(heard).waveform, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("name", "transform", "window", "hop"), [("nsnet2", 320, 320, 160), ("nsnet2-48k", 1024, 960, 480)])  # fmt: skip  # noqa: E501
def test_nsnet2_is_recognised_and_equals_gains_on_frames(name, transform, window, hop, monkeypatch):
    (file,) = weights(name, monkeypatch)
    heard = noisy(1, 20 * hop, seed=4)
    w = window_of("sqrt_hann", window)
    padded = np.concatenate([np.zeros(hop), heard[0].double().numpy(), np.zeros(hop)])
    frames = [np.fft.rfft(padded[i : i + window] * w, transform) for i in range(0, len(padded) - hop, hop)]
    power = np.log10(np.maximum(np.abs(frames) ** 2, 1e-12)).astype(np.float32)
    (gains,) = session(file).run(None, {"input": power[None]})
    out = np.zeros(len(padded))
    for t, bins in enumerate(np.stack(frames) * gains[0]):
        out[t * hop : t * hop + window] += np.fft.irfft(bins)[:window] * w
    model = load_model(file)
    assert isinstance(model, OnnxSpectral) and model.causal
    expected = torch.from_numpy(out[hop:-hop]).float()
    torch.testing.assert_close(model(heard).waveform[0], expected, atol=1e-5, rtol=0)


def test_every_known_interface_is_a_denoiser_with_a_name():
    from kdse.pretrained.teachers import TEACHERS

    assert set(KNOWN) == {name for name, known in TEACHERS.items() if "Onnx" in known.class_path}
