"""Which points there are, whose they are, and that searches can be repeated: the storage without any training."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from kdse.sweeps.definition import read_sweep
from kdse.sweeps.store import Store
from tests.sweeps.sweeping import write_sweep

SPACE = {
    "weight": {"distribution": "log_uniform_values", "min": 1e-3, "max": 1e3},
    "b": {"distribution": "normal"},
    "c": {"values": [1, [2, 3], "x"]},
}


def store(folder: Path, seed: int = 0, parameters: dict = SPACE, **more) -> Store:
    folder.mkdir(exist_ok=True)
    sweep = read_sweep(write_sweep(folder, parameters, **more))
    return Store(sweep, folder / "out", None, seed, {"file": dict(sweep.content)})


def search(points: Store, count: int) -> list[dict]:
    """The values of so many points, whose score is the better the nearer the weight is to 10."""
    found = []
    for _ in range(count):
        claim = points.claim()
        assert claim is not None
        found.append(claim.values)
        points.finish(claim, -abs(math.log10(claim.values["weight"]) - 1))
    return found


@pytest.mark.parametrize("method", ["random", "bayes"])
def test_a_seed_gives_the_same_points_and_another_seed_others(tmp_path, method):
    one, two, other = (
        search(store(tmp_path / name, seed, method=method, run_cap=20), 20)
        for name, seed in (("one", 3), ("two", 3), ("other", 4))
    )
    assert one == two != other
    assert len({str(values) for values in one}) == 20


@pytest.mark.parametrize("method", ["random", "bayes"])
def test_a_search_that_is_begun_again_and_again_draws_what_one_start_draws(tmp_path, method):
    at_once = search(store(tmp_path / "at once", method=method, run_cap=15), 15)
    bit_by_bit = [values for _ in range(5) for values in search(store(tmp_path / "bits", method=method, run_cap=15), 3)]
    assert bit_by_bit == at_once


def test_bayes_looks_where_scores_are_good(tmp_path):
    scale = {"weight": SPACE["weight"]}
    late = search(store(tmp_path, parameters=scale, method="bayes", run_cap=40), 40)[20:]
    away = [abs(math.log10(values["weight"]) - 1) for values in late]
    # uniform on the scale from -3 to 3 is (4 * 2 + 2 * 1) / 6 = 1.67 away from 1 on average
    assert sum(away) / len(away) < 1.1


def test_points_end_at_the_cap(tmp_path):
    points = store(tmp_path, method="random", run_cap=2)
    search(points, 2)
    assert points.claim() is None


def test_a_claimed_point_is_nobody_elses_until_it_is_given_back(tmp_path):
    grid = {"weight": {"values": [1, 2]}}
    mine, yours = store(tmp_path, parameters=grid), store(tmp_path, parameters=grid)
    first, second = mine.claim(), yours.claim()
    assert first is not None and second is not None
    assert {first.number, second.number} == {0, 1}
    assert mine.claim() is None and yours.claim() is None
    assert [point.state for point in yours.points()] == ["running", "running"]
    mine.release(first)
    assert [point.state for point in yours.points()] == ["interrupted", "running"]
    again = yours.claim()
    assert again is not None and again.number == 0 and again.again and again.values == first.values


def test_interrupted_points_come_before_new_ones(tmp_path):
    points = store(tmp_path, parameters={"weight": {"values": [1, 2, 3]}})
    claim = points.claim()
    assert claim is not None
    points.release(claim)
    again = points.claim()
    assert again is not None and again.number == 0
    new = points.claim(passed_over=[0])
    assert new is not None and new.number == 1


def test_a_kill_while_points_are_queued_leaves_each_point_once(tmp_path, monkeypatch):
    import optuna

    queue, queued = optuna.Study.enqueue_trial, []

    def killed_after_two(self, *arguments, **more):
        if len(queued) == 2:
            raise KeyboardInterrupt
        queued.append(queue(self, *arguments, **more))

    grid = {"weight": {"values": [1, 2, 3, 4]}}
    monkeypatch.setattr(optuna.Study, "enqueue_trial", killed_after_two)
    with pytest.raises(KeyboardInterrupt):
        store(tmp_path, parameters=grid)
    monkeypatch.undo()
    assert [point.values["weight"] for point in store(tmp_path, parameters=grid).points()] == [1, 2, 3, 4]


def test_a_kill_between_asking_and_drawing_leaves_a_point_with_values(tmp_path):
    points = store(tmp_path, method="random", run_cap=2)
    points.study.ask()  # and nothing more
    claim = points.claim()
    assert claim is not None and claim.number == 0 and set(claim.values) == set(SPACE)
    undisturbed = store(tmp_path / "undisturbed", method="random", run_cap=2).claim()
    assert undisturbed is not None and claim.values == undisturbed.values


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parameters": {"weight": {"values": [1, 3]}}}, "file: parameters: weight: values is [1, 2] and not [1, 3]"),
        ({"metric": {"name": "val/stoi", "goal": "maximize"}}, 'file: metric: name is "val/si_sdr" and not "val/stoi"'),
        ({"early_terminate": {"type": "hyperband", "min_iter": 2}}, "file: early_terminate is not there and not"),
    ],
)
def test_another_sweep_in_the_folder_is_refused_with_what_differs(tmp_path, change, message):
    grid = {"weight": {"values": [1, 2]}}
    store(tmp_path, parameters=grid)
    with pytest.raises(ValueError) as error:
        store(tmp_path, **{"parameters": grid, **change})
    assert message in str(error.value) and str(tmp_path / "out") in str(error.value)


def test_a_grid_whose_parameters_change_places_has_each_point_once(tmp_path):
    space = {"a": {"values": [1, 2]}, "b": {"values": ["x", "y"]}, "c": {"value": 0}}
    store(tmp_path, parameters=space, run_cap=2)
    turned = {name: space[name] for name in ("b", "c", "a")}
    sweep = read_sweep(write_sweep(tmp_path, turned))  # (the file as it is written counts, but for its cap and order)
    known = read_sweep(write_sweep(tmp_path, space, run_cap=2)).content
    points = Store(sweep, tmp_path / "out", None, 0, {"file": dict(known)}).points()
    assert sorted((p.values["a"], p.values["b"]) for p in points) == [(1, "x"), (1, "y"), (2, "x"), (2, "y")]
    assert [p.number for p in points] == [0, 1, 2, 3]


def test_changed_places_do_not_make_more_points_than_the_cap(tmp_path):
    space = {"a": {"values": [1, 2]}, "b": {"values": ["x", "y"]}}
    before = store(tmp_path, parameters=space, run_cap=2).points()
    assert store(tmp_path, parameters=dict(reversed(space.items())), run_cap=2).points() == before


def test_a_sweep_goes_on_in_its_own_storage_only(tmp_path):
    sweep = read_sweep(write_sweep(tmp_path, {"weight": {"values": [1, 2]}}))
    url, folder = f"sqlite:///{tmp_path / 'points.db'}", tmp_path / "in a database"
    Store(sweep, folder, url, 0, {})
    for other, message in ((None, "not in study.journal; give --storage sqlite"), ("sqlite:///x.db", "not in sqlite")):
        with pytest.raises(ValueError, match=message) as error:
            Store(sweep, folder, other, 0, {})
        assert url in str(error.value)
    assert not (folder / "study.journal").exists()
    assert len(Store(sweep, folder, url, 0, {}).points()) == 2

    Store(sweep, tmp_path / "in a file", None, 0, {})
    with pytest.raises(ValueError, match="leave --storage out"):
        Store(sweep, tmp_path / "in a file", url, 0, {})


def test_a_storage_that_could_not_be_used_does_not_bind_the_sweep(tmp_path):
    sweep = read_sweep(write_sweep(tmp_path, {"weight": {"values": [1, 2]}}))
    with pytest.raises(ValueError, match="cannot be used"):
        Store(sweep, tmp_path / "out", "sqlite:////nowhere/at/all.db", 0, {})
    assert len(Store(sweep, tmp_path / "out", None, 0, {}).points()) == 2


def test_what_could_not_be_told_at_the_beginning_is_kept_from_then_on(tmp_path):
    sweep = read_sweep(write_sweep(tmp_path, {"weight": {"values": [1, 2]}}))
    begun = {"file": {}, "flags": ["--a=1", "--data.num_workers=4"]}
    Store(sweep, tmp_path / "out", None, 0, begun).study.set_user_attr("definition", begun)  # (as they once were)
    now = {"file": {}, "flags": ["--a=1"]}
    Store(sweep, tmp_path / "out", None, 0, {**now, "teacher t.ckpt": "12"})
    Store(sweep, tmp_path / "out", None, 0, now)
    with pytest.raises(ValueError, match='whose teacher t.ckpt is "12" and not "34"'):
        Store(sweep, tmp_path / "out", None, 0, {**now, "teacher t.ckpt": "34"})
