"""Killed at any moment and repeated, a training ends with the checkpoint that it would have had, to the bit."""

import random
import signal
import subprocess
import sys

import pytest
import torch
from tiny import TINY_GAN, TOY, composed

from acne_lab.gan.weights import NETWORKS_FILE
from acne_lab.jobs.train import train

WORDS = (
    "experiment=gan_base",
    "augment=ada",
    *TOY,
    *TINY_GAN,
    "stage.num_images=48",
    "model.augment.p=0.5",
    "model.ada_kimg=1",
    "callbacks.snapshots.every_ticks=2",
)
EVERY_TICK = "callbacks.evaluation={every_ticks: 1, num_images: 4, patience: 9}"


@pytest.fixture(scope="module")
def whole(toy_runs):
    return train(composed("train", *WORDS, f"runs_dir={toy_runs}"))


def differences(one, other, path=""):
    """Where two checkpoints differ, but for paths and for the seconds that ticks took."""
    if "/callbacks/Checkpoint" in path:  # full of paths
        return []
    if isinstance(one, torch.Tensor):
        return [] if torch.equal(one, other) else [path]
    if isinstance(one, dict):
        if one.keys() != other.keys():
            return [f"{path}: {sorted(map(str, one.keys() ^ other.keys()))}"]
        return [d for key in one for d in differences(one[key], other[key], f"{path}/{key}")]
    if isinstance(one, list | tuple):
        if len(one) != len(other):
            return [f"{path}: {len(one)} and {len(other)} items"]
        return [d for i, (a, b) in enumerate(zip(one, other)) for d in differences(a, b, f"{path}/{i}")]
    return (
        []
        if path.endswith("s_per_kimg") or one == other or (one != one and other != other)
        else [f"{path}: {one} and {other}"]
    )


def assert_same(run, whole):
    assert run.path.name == whole.path.name
    one, other = (torch.load(r.last_checkpoint, weights_only=True) for r in (run, whole))
    assert {"state_dict", "optimizer_states", "callbacks", "gan"} <= one.keys()
    assert any("RandomState" in name for name in one["callbacks"])
    assert differences(one, other) == []


def start(tmp_path, script=None, words=WORDS):
    program = ["-m", "acne_lab.jobs"] if script is None else ["-c", script]
    words = [sys.executable, *program, "train", *words, f"runs_dir={tmp_path}"]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def test_killed_while_it_writes_a_checkpoint(whole, tmp_path):
    """The third tick's checkpoint is half on disk when the process dies."""
    script = """
import os, signal
from pathlib import Path
import acne_lab.callbacks as callbacks
save = callbacks.torch.save
def save_and_die(checkpoint, path):
    save(checkpoint, path)
    if checkpoint["gan"]["images_seen"] == 24 and "last" in str(path):
        os.truncate(path, os.path.getsize(path) // 2)
        os.kill(os.getpid(), signal.SIGKILL)
callbacks.torch.save = save_and_die
from acne_lab.jobs.__main__ import main
main()
"""
    assert start(tmp_path, script).wait(120) == -signal.SIGKILL
    [checkpoint] = tmp_path.glob("train/*/checkpoints/last.ckpt")
    assert torch.load(checkpoint, weights_only=True)["gan"]["images_seen"] == 16
    run = train(composed("train", *WORDS, f"runs_dir={tmp_path}"))
    assert_same(run, whole)
    leftovers = [path.name for path in checkpoint.parent.iterdir() if "tmp" in path.name]
    assert leftovers == []


@pytest.fixture(scope="module")
def evaluated(toy_runs):
    return train(composed("train", *WORDS, EVERY_TICK, f"runs_dir={toy_runs}"))


@pytest.mark.parametrize("name", ["best.ckpt", "images_seen=48.ckpt"])
def test_killed_between_a_ticks_checkpoints(evaluated, tmp_path, name):
    """It has written the best or a snapshot, and not yet the one that a repeated run goes on from."""
    script = f"""
import os, signal
import acne_lab.callbacks as callbacks
replace = os.replace
def replace_and_die(aside, path):
    replace(aside, path)
    if os.path.basename(path) == {name!r}:
        os.kill(os.getpid(), signal.SIGKILL)
callbacks.os.replace = replace_and_die
from acne_lab.jobs.__main__ import main
main()
"""
    assert start(tmp_path, script, (*WORDS, EVERY_TICK)).wait(120) == -signal.SIGKILL
    assert len(list(tmp_path.glob(f"train/*/checkpoints/{name}"))) == 1
    run = train(composed("train", *WORDS, EVERY_TICK, f"runs_dir={tmp_path}"))
    assert_same(run, evaluated)
    kept, expected = (sorted((r.path / "checkpoints").iterdir()) for r in (run, evaluated))
    assert [path.name for path in kept] == [path.name for path in expected]
    for one, other in zip(kept, expected, strict=True):
        assert differences(*(torch.load(path, weights_only=True) for path in (one, other))) == []
    assert (run.path / NETWORKS_FILE).read_bytes() == (evaluated.path / NETWORKS_FILE).read_bytes()


def test_killed_between_the_last_checkpoint_and_the_end_of_a_run_that_stopped_early(toy_runs):
    """It does not train on: nothing is learned at lr=0, and the first evaluation stays the best."""
    evaluation = "callbacks.evaluation={every_ticks: 1, num_images: 4, patience: 2}"
    config = composed("train", *WORDS, evaluation, "model.optimizer.lr=0", "seed=1", f"runs_dir={toy_runs}")
    run = train(config)
    whole = torch.load(run.last_checkpoint, weights_only=True)
    files = {name: (run.path / name).read_bytes() for name in ("metrics.csv", "metrics.json", NETWORKS_FILE)}
    assert whole["gan"]["images_seen"] == 3 * 8 < 48
    for name in ("DONE", "metrics.json", NETWORKS_FILE):
        (run.path / name).unlink()
    train(config)
    assert run.done
    assert differences(torch.load(run.last_checkpoint, weights_only=True), whole) == []
    assert {name: (run.path / name).read_bytes() for name in files} == files


@pytest.mark.slow
def test_killed_at_random_moments(whole, tmp_path):
    """Again and again, sooner or later; a run that dies before its first tick begins anew."""
    rng = random.Random(0)
    num_killed = 0
    while not list(tmp_path.glob("train/*/DONE")):
        process = start(tmp_path)
        try:
            assert process.wait(rng.uniform(2, 9) * 1.1**num_killed) == 0  # a busy machine starts slowly
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            num_killed += 1
        assert num_killed < 40
    assert num_killed > 0
    run = train(composed("train", *WORDS, f"runs_dir={tmp_path}"))
    assert_same(run, whole)
