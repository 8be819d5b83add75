"""`kdse corpus index` and `pack` from the command line: what they say, and one line and exit code 2 for mistakes."""

import json

import pytest

from kdse.cli import main
from tests.data.small_corpus import hiss, make_corpus, put


@pytest.fixture
def corpus(tmp_path):
    return make_corpus(tmp_path / "corpus", files=2)


def said(capsys, *arguments: str) -> dict:
    assert main(["corpus", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def mistake(capsys, *arguments: str) -> str:
    capsys.readouterr()
    assert main(["corpus", *arguments]) == 2
    *progress, line = capsys.readouterr().err.splitlines()
    assert line.startswith("kdse corpus: ") and all(said.startswith(("index: ", "pack: ")) for said in progress)
    return line


def test_an_index_is_made_found_again_and_brought_up_to_date(corpus, capsys):
    made = said(capsys, "index", str(corpus), "--workers", "0")
    assert (made["files"], made["measured"], made["rates"]) == (15, 15, {"16000": 15})
    seconds = 3 * (1.0 + 1.1 + 1.0 + 1.2 + 0.3)
    assert made["hours"] == pytest.approx(seconds / 3600, abs=1e-3)
    assert said(capsys, "index", str(corpus))["measured"] == 0
    put(corpus / "noise" / "train" / "new.wav", hiss(0.1, 8000), 8000)
    again = said(capsys, "index", str(corpus), "--update", "--workers", "0")
    assert (again["files"], again["measured"], again["kept"]) == (16, 1, 15)
    assert again["rates"] == {"8000": 1, "16000": 15}


def test_an_update_mends_a_damaged_list_and_says_so(corpus, capsys):
    manifest = corpus / "manifest.kdse"
    manifest.write_text("nonsense")
    assert f"`kdse corpus index {corpus} --update`" in mistake(capsys, "index", str(corpus))
    assert (
        "manifest.kdse: is no manifest" in said(capsys, "index", str(corpus), "--update", "--workers", "0")["replaced"]
    )
    assert said(capsys, "index", str(corpus), "--update", "--workers", "0")["replaced"] == ""
    manifest.write_bytes(b"kdse manifest 2\n")
    assert main(["corpus", "index", str(corpus), "--update", "--workers", "0"]) == 0
    text = capsys.readouterr().out
    assert f"could not be used ({manifest}: has version 2, this kdse reads 1)" in text and "measured 15" in text


def test_the_words_say_what_was_done(corpus, capsys):
    assert main(["corpus", "index", str(corpus), "--workers", "0"]) == 0
    out, err = capsys.readouterr()
    assert "15 files" in out and "measured 15, known before 0" in out and "15 at 16000 Hz" in out
    assert "index: 15/15 files" in err
    assert main(["corpus", "index", str(corpus)]) == 0
    assert "already there; --update measures what is new or has changed" in capsys.readouterr().out
    assert main(["corpus", "pack", str(corpus), str(corpus.parent / "p"), "--workers", "0"]) == 0
    assert "15 recordings" in capsys.readouterr().out


def test_the_flags_of_shards_and_manifests_reach_the_data_module(corpus, tmp_path, capsys):
    packed = said(capsys, "pack", str(corpus), str(tmp_path / "p"), "--workers", "0")
    assert (packed["recordings"], packed["shards"], packed["kept"]) == (15, 9, 0)
    common = ["--config", "experiments/quickstart.yaml", "--data=kdse.data.Mixtures", "--data.segment_seconds=0.5",
              "--data.batch_size=2", "--data.validation_items=2", "--data.validation_seconds=0.5",
              "--data.num_workers=0", "--print_config"]  # fmt: skip
    flags = [f"--data.root={tmp_path / 'p'}", "--data.shard_cache=/kept", "--data.manifest=/m"]
    with pytest.raises(SystemExit) as ended:
        main(["fit", *common, *flags])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert f"root: {tmp_path / 'p'}" in shown and "shard_cache: /kept" in shown and "manifest: /m" in shown


def test_mistakes_are_one_line_that_names_what_to_change(corpus, tmp_path, capsys):
    assert "build | index | pack" in mistake(capsys)
    assert "FOLDER" in mistake(capsys, "index")
    assert "/nowhere: no such folder" in mistake(capsys, "index", "/nowhere")
    assert "--check" in mistake(capsys, "index", str(corpus), "--check", "deep")
    assert "--workers -1" in mistake(capsys, "index", str(corpus), "--workers", "-1")
    assert "--shard-mb -3" in mistake(capsys, "pack", str(corpus), str(tmp_path / "p"), "--shard-mb", "-3")
    assert "is not empty" in mistake(capsys, "pack", str(corpus), str(corpus.parent))
    (corpus / "noise" / "train" / "bad.wav").write_text("no audio")
    line = mistake(capsys, "index", str(corpus), "--workers", "0")
    assert "1 of 16 files" in line and "manifest.bad.txt" in line and "--leave-out-bad" in line
    said(capsys, "index", str(corpus), "--workers", "0", "--leave-out-bad")
    assert "add --update" in mistake(capsys, "index", str(corpus), "--check", "decode")


@pytest.mark.parametrize("command", ["build", "index", "pack"])
def test_help_explains_every_option(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["corpus", command, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    wanted = {
        "build": ("--out", "--minutes", "--workers", "--seed", "--json"),
        "index": ("--out", "--workers", "--check", "--update", "--leave-out-bad", "--json", "--data.manifest"),
        "pack": ("--shard-mb", "--workers", "--manifest", "--json", "--data.root", "--data.shard_cache", "s3://"),
    }[command]
    assert all(option in text for option in wanted)
