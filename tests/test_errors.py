"""A user's mistake is one line; what somebody else's code raises keeps its traceback."""

from __future__ import annotations

import sys

import pytest
import torch

import kdse.commands.taps
from kdse.cli import main
from kdse.errors import PackageError, ParserError, UserError, one_line, printable, require_at_least, require_positive
from tests.data.small_corpus import make_corpus


def chained(inner: Exception, outer: Exception) -> Exception:
    try:
        try:
            raise inner
        except Exception as error:
            raise outer from error
    except Exception as error:
        return error


def test_a_mistake_that_a_parser_wrapped_is_shown_in_our_words():
    assert one_line(chained(UserError("--a: give b"), ParserError("union of subtypes ..."))) == "--a: give b"


def test_a_parsers_own_words_are_shown_where_there_are_no_others():
    assert one_line(chained(TypeError("not an int"), ParserError("--a: not\nan int"))) == "--a: not an int"


def test_a_circle_of_causes_ends():
    one, other = TypeError("one"), TypeError("other")
    one.__cause__, other.__cause__ = other, one
    assert one_line(one) == "one"


def test_a_package_that_cannot_be_used_is_the_mistake_whatever_it_led_to():
    led_to = chained(chained(PackageError("pesq is not installed"), UserError("metrics: none")), UserError("--model"))
    assert one_line(led_to) == "pesq is not installed"


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf")])
def test_a_bound_refuses_what_is_below_it_and_what_is_not_finite(value):
    with pytest.raises(UserError, match="^a=.*0 or more"):
        require_at_least(0, a=value)
    with pytest.raises(UserError, match="^a=.*above zero"):
        require_positive(a=value)


class Refusing(torch.utils.data.Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise UserError("a.wav: cut short")


def test_a_mistake_found_in_a_data_process_arrives_as_it_was_said():
    with pytest.raises(UserError) as caught:
        next(iter(torch.utils.data.DataLoader(Refusing(), num_workers=1)))
    assert str(caught.value) == "a.wav: cut short"


def test_a_mistake_may_name_the_kind_of_another():
    assert str(UserError("a.yaml: broken (UserError: no key)")) == "a.yaml: broken (UserError: no key)"


def test_a_mistake_is_one_line_and_exit_code_2(capsys):
    assert main(["taps", "no/such/file.ckpt"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "no/such/file.ckpt" in said and "Traceback" not in said


def test_a_value_error_of_other_code_keeps_its_traceback(monkeypatch):
    def broken(arguments):
        raise ValueError("of a user's model")

    monkeypatch.setattr(kdse.commands.taps, "main", broken)
    with pytest.raises(ValueError, match="of a user's model"):
        main(["taps", "x"])


def test_a_value_error_of_a_users_objective_keeps_its_traceback(tmp_path, monkeypatch):
    (tmp_path / "theirs.py").write_text(
        "from kdse.objectives import Objective\n"
        "class Theirs(Objective):\n"
        "    def loss(self, exchange):\n"
        "        raise ValueError('shapes differ')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    make_corpus(tmp_path / "corpus", files=2)
    flags = ["--data=kdse.data.Mixtures", f"--data.root={tmp_path / 'corpus'}", "--data.batch_size=2"]
    model = ["--model=kdse.Distiller", "--model.teacher_checkpoint=cruse-30k", "--model.compression=4"]
    with pytest.raises(ValueError, match="shapes differ") as caught:
        main(["fit", *model, *flags, "--objectives", '{"x": {"class_path": "theirs.Theirs"}}', "--trainer.max_steps=1"])
    assert not isinstance(caught.value, UserError)
    sys.modules.pop("theirs", None)


def test_what_names_of_files_hold_is_shown_and_does_not_act():
    name = "a\x1b[2J\x9b1m\nb\u202ec\u2028\x07\x7f\udce9 é 日本"
    assert printable(name) == r"a\x1b[2J\x9b1m\nb\u202ec\u2028\x07\x7f\udce9 é 日本"
    assert "\x1b" not in one_line(UserError(f"{name}: no such file"))
