"""Building the page: complete or not at all, with no address but its own, and one line for every mistake."""

from __future__ import annotations

import json
import re
import threading
import urllib.request

import pytest

from kdse.commands import web
from kdse.web.build import build_page
from kdse.web.runtime import FILES, VERSION
from kdse.web.serve import make_server
from tests.web.step_graphs import metadata, write_graph


@pytest.fixture
def runtime(tmp_path):
    """A folder with the names of the npm package."""
    package = tmp_path / "onnxruntime-web"
    (package / "dist").mkdir(parents=True)
    (package / "package.json").write_text(json.dumps({"version": VERSION}))
    for name in FILES:
        (package / "dist" / name).write_bytes(f"content of {name}".encode())
    return package


@pytest.fixture
def graph(tmp_path):
    return write_graph(tmp_path / "student.onnx", metadata())


def names(folder):
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def test_the_folder_is_complete_and_nothing_else_is_left(tmp_path, graph, runtime):
    (tmp_path / "noisy.wav").write_bytes(b"RIFF")
    out = build_page(graph, runtime, tmp_path / "some" / "page", example=tmp_path / "noisy.wav")
    assert [path.name for path in (tmp_path / "some").iterdir()] == ["page"]
    index = (out / "index.html").read_text()
    facts = json.loads(re.search(r'id="page-facts">(.*?)</script>', index)[1])
    assert (out / facts["model"]).read_bytes() == graph.read_bytes()
    assert (out / facts["example"]).read_bytes() == b"RIFF"
    for kind in ("script", "wasm"):
        assert (out / facts["runtime"][kind]).read_bytes().startswith(b"content of ")
    assert "Microsoft" in (out / "runtime" / "LICENSE.txt").read_text()
    referred = set(re.findall(r'(?:src|href)="([^":]+)"', index))
    for script in out.glob("*.js"):
        referred |= {name.removeprefix("./") for name in re.findall(r"'(\.?/?[a-z]+\.js)'", script.read_text())}
    assert {"main.js", "style.css", "worker.js", "tap.js"} <= referred <= set(names(out))
    assert set(names(out)) - referred == {
        "index.html", facts["model"], facts["example"], "runtime/LICENSE.txt",
        *(facts["runtime"][kind] for kind in ("script", "wasm")),
    }  # fmt: skip


def test_no_file_of_ours_names_another_host(tmp_path, graph, runtime):
    out = build_page(graph, runtime, tmp_path / "page")
    for name in names(out):
        if name.endswith((".js", ".css", ".html")) and not name.startswith("runtime/"):
            text = (out / name).read_text()
            assert not re.search(r"\w+://|[\"'(=]\s*//", text), name
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', (out / "index.html").read_text())[1]
    sources = {word for rule in policy.split(";") for word in rule.split()[1:]}
    assert policy.startswith("default-src 'none'")
    assert sources == {"'none'", "'self'", "'wasm-unsafe-eval'", "blob:", "data:"}


def test_a_title_cannot_change_the_page(tmp_path, graph, runtime):
    out = build_page(graph, runtime, tmp_path / "page", title='</title><script src="x.js">$facts & "more"')
    text = (out / "index.html").read_text()
    assert "&lt;/title&gt;&lt;script src=&quot;x.js&quot;&gt;$facts &amp; &quot;more&quot;</title>" in text


def test_the_facts_of_the_model_are_those_of_its_metadata(tmp_path, graph, runtime):
    text = (build_page(graph, runtime, tmp_path / "page") / "index.html").read_text()
    about = dict(json.loads(re.search(r'id="page-facts">(.*?)</script>', text)[1])["about"])
    assert about["Parameters"] == "1,234,567" and about["Sample rate"] == "16 kHz" and about["Model"] == "Toy"
    assert about["Latency"] == "8 ms (128 samples)" and about["Made with"] == "kdse 0.1.0"


BAD_METADATA = [
    (None, "no metadata"),
    (metadata(kind="whole"), "a whole graph with the STFT inside"),
    (metadata(stft="outside", front_end={}), "a step graph with the STFT outside"),
    (metadata(format_version=2), "format 2"),
    (metadata(hop_samples=128, latency_samples=128), "not those that its metadata name"),
    (metadata(states=[]), "not those that its metadata name"),
    (metadata(latency_samples=None), "not those that its metadata name"),
    (metadata(states=[{"name": "past", "shape": [1, 64], "dtype": "float16"}]), "damaged .states."),
]


@pytest.mark.parametrize(("about", "message"), BAD_METADATA)
def test_a_model_that_the_page_cannot_run_is_refused(tmp_path, runtime, about, message):
    model = write_graph(tmp_path / "other.onnx", about)
    with pytest.raises(ValueError, match=f"other.onnx: .*{message}"):
        build_page(model, runtime, tmp_path / "page")
    assert not (tmp_path / "page").exists()


def test_a_file_that_is_no_model_is_refused(tmp_path, runtime):
    (tmp_path / "text.onnx").write_text("hello")
    for name, message in (("text.onnx", "not an ONNX file"), ("none.onnx", "cannot be read")):
        with pytest.raises(ValueError, match=f"{name}: {message}"):
            build_page(tmp_path / name, runtime, tmp_path / "page")


def test_a_missing_or_other_runtime_is_answered_with_the_command(tmp_path, graph, runtime):
    command = f"npm install .*onnxruntime-web@{VERSION}"
    with pytest.raises(ValueError, match=command):
        build_page(graph, tmp_path / "nowhere", tmp_path / "page")
    (runtime / "package.json").write_text('{"version": "1.0.0"}')
    with pytest.raises(ValueError, match=f"version 1.0.0.*{command}"):
        build_page(graph, runtime, tmp_path / "page")


def test_only_a_page_of_its_own_is_replaced_and_only_if_asked(tmp_path, graph, runtime):
    out = build_page(graph, runtime, tmp_path / "page")
    (out / "old.txt").write_text("from the earlier page")
    with pytest.raises(ValueError, match="--overwrite"):
        build_page(graph, runtime, out)
    assert not (build_page(graph, runtime, out, overwrite=True) / "old.txt").exists()
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years")
    with pytest.raises(ValueError, match="not a page of kdse web"):
        build_page(graph, runtime, precious, overwrite=True)
    assert names(precious) == ["thesis.txt"]


def test_what_cannot_be_written_leaves_nothing(tmp_path, graph, runtime):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ValueError, match="could not be written"):
        build_page(graph, runtime, tmp_path / "file" / "page")
    assert (tmp_path / "file").read_text() == "in the way"


def test_the_command_builds_from_an_exported_file(tmp_path, graph, runtime, capsys):
    assert web.main([str(graph), "--runtime", str(runtime), "--out", str(tmp_path / "page"), "--title", "Hear it"]) == 0
    assert "Hear it</h1>" in (tmp_path / "page" / "index.html").read_text()
    assert "written to" in capsys.readouterr().out


def test_the_server_knows_the_types_that_browsers_insist_on(tmp_path, graph, runtime):
    server = make_server(build_page(graph, runtime, tmp_path / "page"), 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    expected = {
        "index.html": "text/html",
        "main.js": "text/javascript",
        f"runtime/{list(FILES.values())[1]}": "application/wasm",
    }
    try:
        for name, kind in expected.items():
            with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/{name}") as answer:
                assert answer.headers["Content-Type"].split(";")[0] == kind
        with pytest.raises(ValueError, match=f"--serve {server.server_port}"):
            make_server(tmp_path, server.server_port)
    finally:
        server.shutdown()
        server.server_close()
