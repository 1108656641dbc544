"""The job that trains a refiner: what it sees, what it leaves, and that it goes on after any interruption."""

import signal
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from tiny import TINY_REFINER, TOY, composed

from acne_lab import callbacks
from acne_lab.build import build
from acne_lab.data.lineage import Lineage
from acne_lab.data.table import ImageTable
from acne_lab.edit import patches
from acne_lab.edit.weights import REFINER_FILE
from acne_lab.jobs.prepare import prepare
from acne_lab.jobs.refiners import find_refiner, load_refiner
from acne_lab.jobs.train import train
from acne_lab.jobs.train_refiner import compare, patches_of
from acne_lab.runs import REFINER, find_run, run_key

DATA = (*TOY, *(word for word in TINY_REFINER if word.startswith("data.")))
WORDS = ("experiment=refiner", *TOY, *TINY_REFINER)


@pytest.fixture(scope="module")
def run(toy_runs):
    return train(composed("train", *WORDS, f"runs_dir={toy_runs}"))


def test_a_run_is_complete(run, toy_runs):
    assert run.done and run.holds == REFINER
    assert pd.read_csv(run.path / "metrics.csv")["images_seen"].tolist() == [8, 16]
    assert sorted(path.name for path in (run.path / "samples").iterdir()) == ["tick_0001.png", "tick_0002.png"]
    assert Image.open(run.path / "samples" / "tick_0001.png").width == 4 * 32
    assert run.metrics["val"]["num_patches"] > 0
    assert run.metrics["val"]["l1_refined"] > 0
    assert train(composed("train", *WORDS, f"runs_dir={toy_runs}")).path == run.path


def test_it_is_found_by_name_with_its_lineage(run, toy_runs):
    refiner, (path, key, lineage) = (look("refiner", toy_runs) for look in (load_refiner, find_refiner))
    assert (key, refiner.window) == (run.key, 32)
    table = ImageTable.read(prepare(composed("prepare", *DATA, f"runs_dir={toy_runs}")).path)
    assert lineage.known
    assert set(lineage.rows["subject"]) == set(table.select(split="train").rows["subject"])
    assert lineage.touched(table.select(split="test")) == []
    photo, mask = np.full((40, 40, 3), 150, np.uint8), np.zeros((40, 40), bool)
    mask[10:20, 10:20] = True
    same = load_refiner(str(run.path / REFINER_FILE), toy_runs)
    assert (refiner(photo, photo, mask, 0) == same(photo, photo, mask, 0)).all()
    assert find_refiner(str(run.path / REFINER_FILE), toy_runs)[:2] == (path, run.key)
    assert find_run("refiner", toy_runs, holds=REFINER).path == run.path


class Painter:
    """Stands for a trained refiner."""

    device = "cpu"

    def __init__(self, refined):
        self.refined = refined


def test_a_refiner_is_compared_with_its_overlay(run, toy_runs):
    """One that changes nothing is as near to the photographs, one that gives them back cannot be told from them."""
    rows = ImageTable.read(prepare(composed("prepare", *DATA, f"runs_dir={toy_runs}")).path).select(split="train")
    seen = patches_of(rows, run.config | {"patches": run.config["patches"] | {"per_photo": 8}})
    people = np.arange(len(seen)).astype(str)  # as if each patch were of another person
    same = compare(Painter(lambda batch: batch[1]), seen, people)
    assert same["l1_refined"] == same["l1_overlaid"] > 0 == same["l1_untouched"]
    assert same["auc_refined"] == same["auc_overlaid"] > 0.5 and same["kd_refined"] == same["kd_overlaid"]
    best = compare(Painter(lambda batch: batch[0]), seen, people)
    assert best["l1_refined"] == 0 and best["auc_refined"] == 0.5 and best["kd_refined"] < same["kd_refined"]
    alone = compare(Painter(lambda batch: batch[0]), seen, np.repeat("one", len(seen)))
    assert alone["num_subjects"] == 1 and "auc_refined" not in alone


def test_with_the_perceptual_loss_of_the_packaged_network(toy_runs):
    run = train(composed("train", *WORDS, "model.perceptual=1", "stage.num_images=8", f"runs_dir={toy_runs}"))
    assert pd.read_csv(run.path / "metrics.csv")["loss/perceptual"].gt(0).all()


@pytest.mark.parametrize("name", ["refined", "inpaint"])
def test_edits_are_refined(run, toy_runs, name):
    """Every edit of conf/edit that takes a refiner, on a plain skin."""
    edit = composed(f"edit/{name}", f"edit.refiner={run.path}", "edit.editor.analyse.landmarks=false")["edit"]
    refine = load_refiner(edit["refiner"], toy_runs)
    torch.nn.init.normal_(refine.network.leave.weight, std=5.0)  # of a run that has learned more
    photo = np.random.default_rng(0).normal((200, 150, 130), 2, (128, 128, 3)).clip(0, 255).astype(np.uint8)
    added = {"boxes": np.zeros((0, 4)), "num_added": 5, "severity": "mild", "seed": 0}
    bare = build(edit["editor"])(photo, **added)
    made = build({**edit["editor"], "_partial_": True})(refine=refine)(photo, **added)
    assert edit["name"] == name
    assert (made.overlaid == bare.overlaid).all()
    assert (made.image[~made.mask] == photo[~made.mask]).all()
    assert (made.image != made.overlaid).any()


def test_a_copied_file_has_no_known_lineage(run, toy_runs, tmp_path):
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes((run.path / REFINER_FILE).read_bytes())
    _, key, lineage = find_refiner(str(copy), toy_runs)
    assert len(key) == 16 and not lineage.known
    with pytest.raises(ValueError, match="there is no run nothing"):
        load_refiner("nothing", toy_runs)


def test_only_training_photographs_are_learned_from(toy_runs, monkeypatch):
    """The others are not even opened before training is through; those of the test never."""
    table = ImageTable.read(prepare(composed("prepare", *DATA, f"runs_dir={toy_runs}")).path)
    opened = []
    cut = patches.cut_photo

    def watched(job):
        opened.append(job[1])
        return cut(job)

    monkeypatch.setattr(patches, "cut_photo", watched)
    train(composed("train", *WORDS, f"runs_dir={toy_runs}", "patches.side=24", "patches.per_photo=1"))
    split = table.rows.set_index("file_name")["split"][opened].tolist()
    num_train = split.count("train")
    assert split[:num_train] == ["train"] * num_train and num_train == len(table.select(split="train"))
    assert set(split[num_train:]) == {"val"}


def test_what_cannot_change_a_refiner_is_not_in_its_key(run):
    """Photographs keep their size, so data.resolution changes nothing; the detectors see the slope of the skin."""
    config = run.config
    smaller = config | {"data": config["data"] | {"resolution": 16}}
    assert run_key(config, ["t", "mtcnn"]) == run_key(smaller, ["t", "mtcnn"])
    assert run_key(config | {"task": "gan"}, ["t"]) != run_key(smaller | {"task": "gan"}, ["t"])


def test_other_detectors_make_another_refiner(run, toy_runs, monkeypatch):
    """Faces are looked for where they can be: what was trained without is not what is trained with them."""
    keys = []
    for fingerprint in ("mtcnn", "mtcnn,dlib_hog"):
        finder = SimpleNamespace(fingerprint=fingerprint)
        monkeypatch.setattr(
            "acne_lab.jobs.train_refiner.Analyser", lambda landmarks, f=finder: SimpleNamespace(finder=f)
        )
        monkeypatch.setattr("acne_lab.jobs.train_refiner.start_job", lambda config: keys.append(1) or stop())
        with pytest.raises(KeyboardInterrupt):
            train(composed("train", *WORDS, f"runs_dir={toy_runs}", "name=detected"))
    assert len(list((toy_runs / "train").glob("detected-*"))) == len(keys) == 2


def stop():
    raise KeyboardInterrupt


def test_edited_rows_are_not_learned_from(toy_runs, tmp_path):
    table = ImageTable.read(prepare(composed("prepare", *DATA, f"runs_dir={toy_runs}")).path)
    edited = table.rows.assign(source=table.rows["source"].where(table.rows["split"] != "train", "edited"))
    (tmp_path / "images").symlink_to(table.root / "images")
    ImageTable(root=tmp_path, rows=edited, classes=table.classes, boxes=table.boxes).write()
    tiny = [word for word in TINY_REFINER if not word.startswith("data.")]
    words = ("experiment=refiner", *tiny, f"data={tmp_path}", f"runs_dir={tmp_path / 'runs'}")
    with pytest.raises(ValueError, match="has no training photographs"):
        train(composed("train", *words))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("patches.side=18",), "patches.side=18 must be a multiple of 4"),
        (("init_from=toy_faces_64",), "leave init_from out"),
        (("trainer=ddp",), "trains on one device"),
        (("patches.per_photo=0",), "per_photo must be at least 1"),
        (("patches.side=128",), "64 x 64 is smaller than a patch of 128 px"),
        (("model.G.ratio_global=1",), "leaves one part empty"),
    ],
)
def test_bad_input(toy_runs, overrides, message):
    with pytest.raises(ValueError, match=message):
        train(composed("train", *WORDS, f"runs_dir={toy_runs}", *overrides))


def assert_same(one, other):
    assert one.path.name == other.path.name
    assert (one.path / REFINER_FILE).read_bytes() == (other.path / REFINER_FILE).read_bytes()
    states = [torch.load(run.last_checkpoint, weights_only=True)["state_dict"] for run in (one, other)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[1])
    tables = [pd.read_csv(run.path / "metrics.csv").drop(columns="speed/s_per_kimg") for run in (one, other)]
    pd.testing.assert_frame_equal(*tables)


def test_a_full_disk_at_the_second_checkpoint(run, toy_runs, tmp_path, monkeypatch):
    """Repeated, the training goes on from the first, and ends with the same bits."""
    config = composed("train", *WORDS, f"data.cache_dir={toy_runs}/packed", f"runs_dir={tmp_path}")
    save = torch.save

    def save_until_it_is_full(checkpoint, path):
        if checkpoint["refiner"]["images_seen"] == 16:
            raise OSError("no space left on device")
        save(checkpoint, path)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="the checkpoint before it is intact"):
        patch.setattr(callbacks.torch, "save", save_until_it_is_full)
        train(config)
    [checkpoint] = tmp_path.glob("train/*/checkpoints/last.ckpt")
    assert torch.load(checkpoint, weights_only=True)["refiner"]["images_seen"] == 8
    again = train(config)
    assert_same(again, run)
    assert Lineage.read(again.path).known


@pytest.mark.slow
def test_killed_while_it_writes_a_checkpoint(run, toy_runs, tmp_path):
    """The second tick's checkpoint is half on disk when the process dies: the repeated run ends with the same bits."""
    cache = f"data.cache_dir={toy_runs}/packed"
    script = """
import os, signal
import acne_lab.callbacks as callbacks
save = callbacks.torch.save
def save_and_die(checkpoint, path):
    save(checkpoint, path)
    if checkpoint["refiner"]["images_seen"] == 16:
        os.truncate(path, os.path.getsize(path) // 2)
        os.kill(os.getpid(), signal.SIGKILL)
callbacks.torch.save = save_and_die
from acne_lab.jobs.__main__ import main
main()
"""
    words = [sys.executable, "-c", script, "train", *WORDS, cache, f"runs_dir={tmp_path}"]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert process.wait(180) == -signal.SIGKILL
    [checkpoint] = tmp_path.glob("train/*/checkpoints/last.ckpt")
    assert torch.load(checkpoint, weights_only=True)["refiner"]["images_seen"] == 8
    assert_same(train(composed("train", *WORDS, cache, f"runs_dir={tmp_path}")), run)


def test_a_refiner_of_held_out_people_is_refused_before_it_trains(toy_runs, tmp_path):
    """A training photograph is, byte by byte, one of the validation."""
    table = ImageTable.read(prepare(composed("prepare", *TOY, f"runs_dir={toy_runs}")).path)
    rows = table.rows.copy()
    first = rows.groupby("split").head(1).set_index("split")["sha256"]
    rows["sha256"] = rows["sha256"].replace(first["val"], first["train"])
    replace(table, root=tmp_path, rows=rows).write()
    words = (*(word for word in TINY_REFINER if "source" not in word and "split" not in word), f"data.root={tmp_path}")
    with pytest.raises(ValueError, match=r"this refiner has seen(?s:.*)\(val\)"):
        train(composed("train", "experiment=refiner", "data=table", *words, f"runs_dir={tmp_path}"))
    assert not list(tmp_path.glob("train/*-*"))
