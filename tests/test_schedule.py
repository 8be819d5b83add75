"""The schedule is a pure function of the optimizer step."""

import math

import pytest

from kdse.schedule import SUPERVISED, Joint, Phase, Phases, TwoStep, phase_starts, phase_weights

TERMS = (SUPERVISED, "gram", "output")


def resolved(schedule, total=1000, per_epoch=100):
    schedule.starts = phase_starts(schedule.phases, total, per_epoch)
    return schedule


def test_two_step_is_pure_distillation_then_pure_supervision():
    schedule = resolved(TwoStep(distil_fraction=0.25))
    assert schedule.weights(249, TERMS) == {SUPERVISED: 0.0, "gram": 1.0, "output": 1.0}
    assert schedule.weights(250, TERMS) == {SUPERVISED: 1.0, "gram": 0.0, "output": 0.0}


@pytest.mark.parametrize(
    ("arguments", "switch"), [({"distil_steps": 7}, 7), ({"distil_epochs": 2.5}, 250), ({"distil_fraction": 0.1}, 100)]
)
def test_the_switch_may_be_given_in_steps_epochs_or_fraction(arguments, switch):
    assert resolved(TwoStep(**arguments)).starts == [0, switch]


def test_second_step_may_keep_distilling_with_its_own_weight():
    assert resolved(TwoStep(gamma=0.5)).weights(999, TERMS) == {SUPERVISED: 0.5, "gram": 0.5, "output": 0.5}


def test_joint_gives_gamma_to_every_objective_and_the_rest_to_supervision_at_every_step():
    schedule = resolved(Joint(gamma=0.3))
    for step in (0, 10, 10_000):
        assert schedule.weights(step, TERMS) == {SUPERVISED: 0.7, "gram": 0.3, "output": 0.3}


@pytest.mark.parametrize("ramp", ["linear", "cosine"])
def test_ramps_start_near_the_old_weight_end_at_the_new_and_never_turn_back(ramp):
    phases = [Phase({"gram": 1.0}, steps=100), Phase({SUPERVISED: 1.0}, ramp=ramp, ramp_steps=50)]
    values = [phase_weights(phases, [0, 100], step, TERMS)[SUPERVISED] for step in range(99, 200)]
    assert values[0] == 0.0
    assert values[50] == values[-1] == pytest.approx(1.0)
    assert all(b >= a for a, b in zip(values, values[1:], strict=False))
    middle = phase_weights(phases, [0, 100], 124, TERMS)
    assert middle[SUPERVISED] == pytest.approx(0.5) and middle["gram"] == pytest.approx(0.5)


def test_named_objectives_win_over_the_wildcard():
    phases = [Phase({"*": 1.0, "output": 0.25})]
    assert phase_weights(phases, [0], 0, TERMS) == {SUPERVISED: 0.0, "gram": 1.0, "output": 0.25}


def test_weights_do_not_depend_on_what_was_asked_before():
    schedule = resolved(
        Phases([Phase({"gram": 1}, fraction=0.5), Phase({SUPERVISED: 1}, ramp="cosine", ramp_steps=90)])
    )
    forward = [schedule.weights(s, TERMS) for s in range(1000)]
    backward = [schedule.weights(s, TERMS) for s in reversed(range(1000))]
    assert forward == backward[::-1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TwoStep(gamma=1.5), "gamma"),
        (lambda: TwoStep(distil_steps=5, distil_epochs=1), "not both"),
        (lambda: TwoStep(distil_fraction=1.5), "fraction"),
        (lambda: Phase({}, steps=1, epochs=2), "one of"),
        (lambda: Phase({"gram": math.nan}), "finite"),
        (lambda: Phase({}, ramp="square"), "ramp"),
        (lambda: Phases([]), "at least one"),
    ],
)
def test_impossible_schedules_are_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_fraction_of_an_endless_run_is_refused():
    with pytest.raises(ValueError, match="max_steps"):
        phase_starts(TwoStep().phases, math.inf, 100)


def test_only_the_last_phase_may_be_open_ended():
    with pytest.raises(ValueError, match="open-ended"):
        phase_starts([Phase({"gram": 1}), Phase({SUPERVISED: 1})], 100, 10)
