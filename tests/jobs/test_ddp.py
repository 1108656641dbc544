"""Two processes on the CPU train what one process trains, and one goes on from where two stopped."""

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from filelock import FileLock
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from tiny import TINY_GAN, TOY, composed

from acne_lab.build import CONF_DIR
from acne_lab.gan.weights import NETWORKS_FILE, read_networks
from acne_lab.jobs.train import train
from acne_lab.runs import Run

WORDS = (
    "experiment=gan_base",
    *TOY,
    *TINY_GAN,
    "stage.batch_size=8",  # 4 in each process, one minibatch-std group
    "stage.tick_images=32",
    "stage.num_images=64",
    "augment=ada",
    "augment/pipe=bgcfnc",
    "model.augment.p=0.5",  # random numbers of every kind count
    "model.ada_kimg=1",
)
TWO = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")


PYTHON = (sys.executable, "-m", "acne_lab.jobs")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "acne_lab.jobs")
ALONE = {name: value for name, value in os.environ.items() if name not in ("LOCAL_RANK", "RANK", "WORLD_SIZE")}


def command(*words, runs_dir, start=PYTHON):
    words = [*start, "train", *words, f"runs_dir={runs_dir}"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=ALONE, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return Run(next(runs_dir.glob("train/gan_base-*")))


def tensors(run):
    networks = read_networks(run.path / NETWORKS_FILE)
    return {f"{name}.{k}": v for name, network in networks.items() for k, v in network.state_dict().items()}


def assert_close(state, reference):
    assert state.keys() == reference.keys()
    difference = {name: float((state[name] - reference[name]).abs().max()) for name in state}
    assert max(difference.values()) < 1e-3, sorted(difference.items(), key=lambda item: -item[1])[:5]


@pytest.fixture(scope="module")
def alone(toy_runs):
    return train(composed("train", *WORDS, f"runs_dir={toy_runs}"))


def test_two_processes_train_what_one_trains(alone, tmp_path):
    both = command(*WORDS, *TWO, runs_dir=tmp_path)
    assert both.path.name == alone.path.name
    assert both.done
    one, two = (pd.read_csv(run.path / "metrics.csv") for run in (alone, both))
    assert (one["ada/r_t"] - two["ada/r_t"]).abs().max() < 0.2  # of 32 signs the few of scores near 0 may turn
    own = ["speed/s_per_kimg", "diversity", "ada/r_t"]  # diversity: a deviation over 4 images, and one over 8
    one, two = one.drop(columns=own), two.drop(columns=own)
    pd.testing.assert_frame_equal(one, two, rtol=1e-3, atol=1e-4)
    assert one["ada/p"].iloc[-1] != 0.5  # ADA has moved, by the statistics of both
    assert_close(tensors(both), tensors(alone))


def test_of_two_processes_that_fail_the_first_says_so(tmp_path):
    """It keeps the last good tick; the other leaves in silence, or Lightning would kill the first meanwhile."""
    guard = "callbacks.divergence_guard={max_score: 1000, min_diversity: 100, patience: 1}"  # the second tick is poor
    words = [*PYTHON, "train", *WORDS, *TWO, guard, f"runs_dir={tmp_path}"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=ALONE, timeout=300)
    assert done.returncode == 2, done.stderr[-3000:]
    assert done.stderr.count("error: ") == 1
    path = done.stderr.rsplit("The last good tick: ", 1)[1].strip()
    assert set(read_networks(Path(path))) == {"G_ema", "D"}


def test_one_process_goes_on_where_two_were_stopped(alone, tmp_path):
    """The first tick by two, the second by one; the checkpoint does not know how many made it."""
    first = command(*WORDS, *TWO, "trainer.max_epochs=1", runs_dir=tmp_path / "short")
    rest = tmp_path / "rest" / "train" / alone.path.name
    rest.parent.mkdir(parents=True)
    first.path.rename(rest)
    (rest / "DONE").unlink()
    run = train(composed("train", *WORDS, f"runs_dir={tmp_path / 'rest'}"))
    assert run.path == rest
    assert pd.read_csv(run.path / "metrics.csv")["images_seen"].tolist() == [32, 64]
    assert_close(tensors(run), tensors(alone))


@pytest.mark.slow
def test_torchrun_trains_what_one_process_trains_and_trains_it_once(alone, tmp_path):
    both = command(*WORDS, *TWO, runs_dir=tmp_path, start=TORCHRUN)
    assert both.done
    assert both.path.name == alone.path.name
    assert_close(tensors(both), tensors(alone))
    written = (both.path / "metrics.csv").stat().st_mtime_ns
    assert command(*WORDS, *TWO, runs_dir=tmp_path, start=TORCHRUN).path == both.path
    assert (both.path / "metrics.csv").stat().st_mtime_ns == written


@pytest.mark.slow
def test_processes_of_srun_wait_for_another_that_trains_the_same_run(alone, toy_runs, tmp_path):
    """The variables that srun sets are all that Lightning and we know of Slurm. The other one is this test."""
    shutil.copytree(toy_runs / "prepare", tmp_path / "prepare", symlinks=True)
    (tmp_path / "train" / ".locks").mkdir(parents=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        job = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "SLURM_NODEID": "0"}
    job |= {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "1", "SLURM_JOB_ID": "1"}
    words = [*PYTHON, "train", *WORDS, *TWO, f"runs_dir={tmp_path}"]
    with FileLock(tmp_path / "train" / ".locks" / f"{alone.key}.lock"):
        tasks = [
            subprocess.Popen(
                words,
                env={**ALONE, **job, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)},
                stdout=subprocess.PIPE,
                stderr=open(tmp_path / f"{rank}.txt", "w"),  # noqa: SIM115 - read while they run
                text=True,
            )
            for rank in range(2)
        ]
        deadline = time.monotonic() + 120
        while "another process works on" not in (tmp_path / "0.txt").read_text():
            assert time.monotonic() < deadline
            assert [task.poll() for task in tasks] == [None, None]
            time.sleep(0.2)
        shutil.copytree(alone.path, tmp_path / "train" / alone.path.name)
    try:
        for task in tasks:
            printed, _ = task.communicate(timeout=120)
            assert task.returncode == 0
            assert printed.splitlines()[-1] == str(tmp_path / "train" / alone.path.name)
    finally:
        for task in tasks:
            task.kill()


def test_a_stage_of_a_study_trains_in_one_process(monkeypatch):
    """Also where torchrun has started several."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        HydraConfig.instance().set_config(compose("study", return_hydra_config=True))
    try:
        with pytest.raises(ValueError, match="not as a stage of a study"):
            train(composed("train", *WORDS, *TWO))
    finally:
        HydraConfig.instance().cfg = None


def test_a_sweep_over_processes_is_refused(tmp_path):
    words = [sys.executable, "-m", "acne_lab.jobs", "train", *WORDS, *TWO, "-m", "seed=0,1", f"runs_dir={tmp_path}"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "several processes train one run at a time" in done.stderr
