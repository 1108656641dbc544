"""Finished graders as other jobs take them."""

import shutil

import pytest
import torch
from tiny import TINY_GAN, TINY_GRADER, TOY, composed

from acne_lab.build import build
from acne_lab.data.lineage import Lineage
from acne_lab.data.module import GraderBatches
from acne_lab.data.table import ImageTable
from acne_lab.jobs.graders import load_grader, require_classes
from acne_lab.jobs.prepare import table_of
from acne_lab.jobs.train import train
from acne_lab.jobs.training import packed
from acne_lab.metrics.grading import grading_report


@pytest.fixture(scope="module")
def config(toy_runs):
    words = ("experiment=grader", *TOY, *TINY_GRADER, "head=count", "num_threads=1", f"runs_dir={toy_runs}", "seed=7")
    return composed("train", *words)


@pytest.fixture(scope="module")
def run(config):
    return train(config)


def test_a_loaded_grader_grades_as_the_run_says(run, config, toy_runs):
    grader, found, lineage = load_grader(run.path.name, toy_runs)
    assert found.path == run.path
    assert lineage.rows.equals(Lineage.read(run.path).rows)
    assert not grader.training
    rows = table_of(config).select(split="test")
    data = grader.data_config
    batches = GraderBatches(parts=[(rows, packed(rows, config))], batch_size=8, mean=data["mean"], std=data["std"])
    with torch.no_grad():
        probabilities = torch.cat([grader.predict_step(batch, 0)[0] for batch in batches])
    report = grading_report(probabilities, torch.from_numpy(rows.labels), grader.classes)
    assert report["confusion"] == run.metrics["test"]["confusion"]
    require_classes(grader, rows)


def test_other_classes_are_named(run, config, toy_runs):
    grader, *_ = load_grader(run.path, toy_runs)
    table = table_of(config)
    rows = table.rows[table.rows["severity"] != "severe"]
    other = ImageTable(root=table.root, rows=rows, classes=("mild", "moderate", "very_severe"))
    with pytest.raises(ValueError, match=r"has the classes \['mild', 'moderate', 'severe', 'very_severe'\], .* has"):
        require_classes(grader, other)


def test_what_is_no_grader_is_refused(run, toy_runs, tmp_path):
    gan = train(composed("train", "experiment=gan_base", *TOY, *TINY_GAN, f"runs_dir={toy_runs}"))
    with pytest.raises(ValueError, match=r"names a GAN .* not a grader"):
        load_grader(gan.path, toy_runs)
    copy = shutil.copytree(run.path, tmp_path / "train" / run.path.name)
    best = copy / "checkpoints" / "best.ckpt"
    checkpoint = torch.load(best, weights_only=True)
    del checkpoint["hyper_parameters"]["head"]
    torch.save(checkpoint, best)
    with pytest.raises(ValueError, match="an earlier version of acne_lab: train that grader again"):
        load_grader(copy, tmp_path)
    best.unlink()
    with pytest.raises(ValueError, match=r"best.ckpt is gone, and with it the grader"):
        load_grader(copy, tmp_path)
    (copy / "DONE").unlink()
    with pytest.raises(ValueError, match="is not finished"):
        load_grader(copy, tmp_path)


@pytest.mark.parametrize("head", ["ldl", "count"])
def test_a_head_that_cannot_grade_these_classes_is_named(head):
    model = composed("train", "experiment=grader", f"head={head}", *TINY_GRADER)["model"]
    with pytest.raises(
        ValueError, match=rf"^head={head} reads grades off .* the data has 3 classes: choose head=softmax"
    ):
        build(model, classes=["mild", "moderate", "severe"])


def test_another_optimizer_takes_its_own_arguments():
    words = ("model.optimizer._target_=torch.optim.SGD", "+model.optimizer.momentum=0.9", "model.schedule=constant")
    model = build(composed("train", "experiment=grader", *TINY_GRADER, *words)["model"], classes=["mild", "severe"])
    optimizer = model.optimizer(model.parameters())
    assert isinstance(optimizer, torch.optim.SGD)
    assert optimizer.defaults["momentum"] == 0.9
