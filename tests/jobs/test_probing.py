"""`experiment=probe`: a run like any other grader's, in which images pass the backbone once."""

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import TINY_GRADER, TOY, composed

from acne_lab.data.module import GraderBatches
from acne_lab.grade.module import Grader
from acne_lab.jobs.graders import load_grader
from acne_lab.jobs.prepare import table_of
from acne_lab.jobs.train import train
from acne_lab.jobs.training import packed
from acne_lab.metrics.predictions import read_predictions

SMALL = ("probe={lrs: [0.003, 0.03], weight_decays: [0, 0.1], num_seeds: 2}", "num_threads=1")
PROBE = ("experiment=probe", *TOY, *TINY_GRADER, "model.pretrained=false", *SMALL)


def words(runs_dir, *overrides):
    return composed("train", *PROBE, f"runs_dir={runs_dir}", "seed=41", *overrides)


@pytest.fixture(scope="module")
def run(toy_runs):
    return train(words(toy_runs))


def test_a_run_is_complete(run):
    heads, curve = pd.read_csv(run.path / "heads.csv"), pd.read_csv(run.path / "metrics.csv")
    assert len(heads) == 2 * 2 * 2
    assert set(heads["seed"]) == {41, 42}
    assert curve["epoch"].tolist() == [1, 2]
    metrics = run.metrics
    assert metrics["test"]["num_test"] > 0
    assert metrics["test_opened"]["epoch"] in (1, 2)
    assert metrics["lineage"]["leaked_share"] == 0
    assert "the head is the best of 8" in (run.path / "model_card.md").read_text()


def test_other_jobs_load_the_grader_that_was_tested(run, toy_runs):
    grader, _, _ = load_grader(run.path.name, toy_runs)
    rows = table_of(run.config).select(split="test")
    own = grader.data_config
    parts = [(rows, packed(rows, run.config))]
    batches = GraderBatches(parts=parts, batch_size=8, mean=own["mean"], std=own["std"])
    with torch.no_grad():
        probabilities = torch.cat([grader.predict_step(batch, 0)[0] for batch in batches])
    np.testing.assert_allclose(
        read_predictions(run.path / "predictions.parquet").of("test").uncalibrated, probabilities.numpy(), atol=1e-5
    )


def test_images_pass_the_backbone_once(run, toy_runs, monkeypatch):
    """The same weights need nothing anew: other heads, other rates. (`pretrained` of a file has no seed of its own.)"""
    weights = f"model.pretrained={run.path / 'checkpoints' / 'best.ckpt'}"
    first = train(words(toy_runs, weights))
    monkeypatch.setattr(Grader, "features", None)
    for other in ("head=coral", "seed=42"):
        assert train(words(toy_runs, weights, other)).path != first.path


def test_it_is_the_same_again(run, toy_runs):
    before = (run.path / "predictions.parquet").read_bytes()
    for name in ("DONE", "metrics.json", "predictions.parquet", "test_opened.json", "heads.csv"):
        (run.path / name).unlink()
    assert (train(words(toy_runs)).path / "predictions.parquet").read_bytes() == before


def test_what_no_head_can_have_is_refused(toy_runs):
    with pytest.raises(ValueError, match=r"without mixup_alpha, ema_decay: model\.mixup_alpha=0 model\.ema_decay=null"):
        train(words(toy_runs, "model.mixup_alpha=0.2", "model.ema_decay=0.9", "seed=43"))
    with pytest.raises(ValueError, match=r"lower probe\.lrs"):
        train(words(toy_runs, "probe.lrs=[inf]", "seed=43"))


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("probe.lrs=[]", r"probe\.lrs is empty"),
        ("probe.weight_decays=[]", r"probe\.weight_decays is empty"),
        ("probe.num_seeds=0", "probe.num_seeds must be at least 1, not 0"),
        ("patience=3", "patience=null"),
        ("model.freeze=null", "model.freeze=all"),
        ("protocol=acnegan", "protocol=acnegan: .*whole training"),
        ("protocol=ldl", "protocol=ldl: .*whole training"),
    ],
)
def test_settings_that_a_probe_would_ignore_are_refused(word, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        train(words(tmp_path, word))
    assert not list(tmp_path.iterdir())  # before anything is made
