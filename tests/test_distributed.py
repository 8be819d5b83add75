"""A run that a launcher started several times over must know of it."""

import pytest

from kdse.distributed import check_processes, check_strategy, started
from tests.ddp_launch import torchrun
from tests.tiny_run import write_config

TORCHRUN = {"TORCHELASTIC_RUN_ID": "1", "WORLD_SIZE": "2"}
SRUN = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_NTASKS": "4"}


def test_the_launchers_own_variables_say_how_many_processes_there_are():
    assert started(TORCHRUN) == (2, "torchrun")
    assert started(SRUN) == (4, "srun")
    assert started({"SLURM_NTASKS": "4"})[0] == 1  # a batch script, which starts things itself
    assert started({"WORLD_SIZE": "2"})[0] == 1  # Lightning's own launcher


@pytest.mark.parametrize("environment", [TORCHRUN, SRUN])
def test_processes_that_would_each_train_the_whole_run_are_refused_and_others_are_not(environment):
    with pytest.raises(ValueError, match=r"started . processes.*--trainer\.devices"):
        check_processes(1, environment)
    check_processes(2, environment)
    check_processes(1, {})


@pytest.mark.slow
def test_torchrun_without_devices_on_a_cpu_ends_with_one_line(tmp_path):
    with pytest.raises(AssertionError, match="kdse fit: torchrun started 2 processes"):
        torchrun(2, "-m", "kdse.cli", "fit", "--config", write_config(tmp_path))


@pytest.mark.parametrize("name", ["ddp_spawn", "ddp_fork", "ddp_notebook", "ddp_spawn_find_unused_parameters_true"])
def test_strategies_that_copy_a_running_process_are_refused_with_the_one_to_use(name):
    wanted = "ddp_find_unused_parameters_true" if "unused" in name else "ddp"
    with pytest.raises(ValueError, match=rf"--trainer\.strategy={name}.*use {wanted}$"):
        check_strategy(name)
    for works in ("ddp", "auto", "ddp_find_unused_parameters_true", None, "fsdp"):
        check_strategy(works)
