"""Same seed, same machine, same predictions: to the bit, whatever happens on the way."""

import os
import signal
import subprocess
import sys

import pytest
import torch
from tiny import TINY_GRADER, TOY

WORDS = (
    "experiment=grader",
    *TOY,
    *TINY_GRADER,
    "num_threads=1",
    "trainer.max_epochs=4",
    "model.drop_rate=0.5",
    "model.ema_decay=0.9",
    "model.crop_pct=0.9",
    "model.random_crop=true",
    "patience=null",
)
DIES = """
import os, signal
import acne_lab.grade.module as module
step = module.Grader.training_step
def step_or_die(self, batch, index):
    if self.current_epoch == 2 and index == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, batch, index)
module.Grader.training_step = step_or_die
from acne_lab.jobs.__main__ import main
main()
"""


def train(runs_dir, *words, script=None):
    program = ["-m", "acne_lab.jobs"] if script is None else ["-c", script]
    command = [sys.executable, *program, "train", *words, f"runs_dir={runs_dir}"]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"COLUMNS": "80"})


def trained(runs_dir):
    [done] = runs_dir.glob("train/*/DONE")
    return done.parent


@pytest.mark.slow
def test_two_trainings_in_two_processes_one_of_them_killed_in_the_middle(tmp_path):
    """Every source of chance is on: order, augmentation, dropout, crops, averaged weights."""
    one, other = tmp_path / "one", tmp_path / "other"
    assert train(one, *WORDS).returncode == 0
    assert train(other, *WORDS, script=DIES).returncode == -signal.SIGKILL
    [last] = other.glob("train/*/checkpoints/last.ckpt")
    assert torch.load(last, weights_only=True)["epoch"] == 1
    assert train(other, *WORDS).returncode == 0
    for name in ("predictions.parquet", "metrics.csv"):
        assert (trained(one) / name).read_bytes() == (trained(other) / name).read_bytes(), name
    weights, same = (
        torch.load(trained(runs) / "checkpoints" / "best.ckpt", weights_only=True) for runs in (one, other)
    )
    assert all(torch.equal(weights["state_dict"][name], same["state_dict"][name]) for name in weights["state_dict"])


@pytest.mark.slow
def test_another_seed_gives_others(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    assert train(one, *WORDS, "trainer.max_epochs=1").returncode == 0
    assert train(other, *WORDS, "trainer.max_epochs=1", "seed=1").returncode == 0
    files = [(trained(runs) / "predictions.parquet").read_bytes() for runs in (one, other)]
    assert files[0] != files[1]
