"""A model card says what the run's files say, and nothing of the machine."""

import json

import pandas as pd
import pytest
import yaml

from acne_lab.report.card import write_card

CLASSES = ["mild", "moderate", "severe"]
FIGURES = {
    "balanced_accuracy": 0.75,
    "accuracy": 0.7,
    "mae_count": None,
    "recall": {"mild": 1.0, "moderate": 0.0, "severe": None},
    "confusion": [[2, 0, 0], [3, 0, 0], [0, 0, 0]],
    "num_test": 5,
    "num_subjects": 3,
    "interval": {"balanced_accuracy": {"low": 0.5, "high": 0.9}, "accuracy": {"reason": "one person"}},
}
METRICS = {
    "test": FIGURES,
    "val": FIGURES | {"balanced_accuracy": 0.8, "interval": {}},
    "classes": CLASSES,
    "decision": {"temperature": 1.25, "weights": None},
    "test_opened": {"time": "2026-01-02T03:04:05+00:00", "epoch": 7, "chosen_on": "val/balanced_accuracy"},
    "lineage": {"known": True, "num_photographs": 12, "leaked_share": 0.0},
}
CONFIG = {
    "seed": 4,
    "data": {"resolution": 64},
    "model": {
        "backbone": "resnet50",
        "pretrained": "/home/ann/secret/weights.safetensors",
        "head": {"_target_": "acne_lab.grade.heads.CoralHead"},
        "optimizer": {"_target_": "torch.optim.AdamW"},
    },
    "balance": {"name": "generated", "only": True},
    "protocol": "subject",
    "trainer": {"max_epochs": 15},
    "probe": None,
    "decision": {"temperature": True, "weights": False},
}


def rows(source, subjects):
    return pd.DataFrame({"severity": ["mild", "moderate"], "subject": subjects, "source": source})


def card(tmp_path, *, metrics=METRICS, config=CONFIG, source="real", columns=()):
    run_dir = tmp_path / "runs" / "train" / "grader-0123456789"
    run_dir.mkdir(parents=True)
    (run_dir / "config.yaml").write_text(yaml.safe_dump(config))
    (run_dir / "metrics.json").write_text(json.dumps(metrics))
    environment = {"code": "abc", "packages": {"timm": "1.0", "torch": "2.14"}}
    (run_dir / "environment.json").write_text(json.dumps(environment))
    parts = {"train": rows("generated", ["a", ""]), "val": rows("real", ["b", "b"]), "test": rows(source, ["c", "d"])}
    path = write_card(run_dir, parts=parts, columns=columns)
    assert path == run_dir / "model_card.md"
    return path.read_text()


def test_the_usual_sections_with_the_runs_own_figures(tmp_path):
    text = card(tmp_path, columns=["file_name", "skin_tone"])
    headings = [line[3:] for line in text.splitlines() if line.startswith("## ")]
    assert headings == [
        "Model details",
        "Intended use",
        "Factors",
        "Metrics",
        "Data",
        "Quantitative analyses",
        "Ethical considerations",
        "Caveats and recommendations",
    ]
    assert "not a medical device" in text
    assert "| balanced accuracy | 0.800 | 0.750 (0.500 to 0.900) |" in text
    assert "| accuracy | 0.700 | 0.700 |" in text
    assert "lesions |" not in text  # a figure that is not defined has no row
    assert "| moderate | 3 | 0 | 0 |" in text
    assert "| train | 1 | 1 | 0 | 2 | 1, and 1 image of nobody knows whom | 2 generated |" in text
    assert "epoch 7 is used; seed 4" in text
    assert "generated or edited images alone" in text
    assert "temperature of 1.25" in text
    assert "apart by: skin tone." in text
    assert "```\nacne-lab explain run=grader-0123456789\n```" in text and "the run's report" not in text
    assert "on the validation images, and so was the temperature. The test" in text
    assert "the second chose the epoch and the temperature;" in text
    assert "No person on a test image is on any of them" in text
    assert "No test image is severe" in text
    assert "recognised no test image that is moderate" in text


def test_what_was_not_fitted_is_not_said_to_be(tmp_path):
    """As of protocol=acnegan, whose probabilities stay as the network gives them."""
    metrics = METRICS | {"decision": {"temperature": 1.0, "weights": None}}
    text = card(tmp_path, metrics=metrics, config=CONFIG | {"decision": {"temperature": False, "weights": False}})
    assert "temperature" not in text and "the network's own, not calibrated; the grade is the most probable" in text
    assert "that is on the validation images. The test images" in text and "the second chose the epoch;" in text


def test_weights_that_were_fitted_are_named(tmp_path):
    metrics = METRICS | {"decision": {"temperature": 1.5, "weights": [1.0, 1.25, 2.0]}}
    text = card(tmp_path, metrics=metrics, config=CONFIG | {"decision": {"temperature": True, "weights": True}})
    assert "temperature of 1.50; the grade is the most probable one after weighing (mild 1.00, moderate 1.25" in text
    assert "and so were the temperature and the weights of the classes." in text


def test_no_path_of_the_machine(tmp_path):
    text = card(tmp_path)
    assert "weights.safetensors" in text
    assert not [word for word in ("/home", "secret", str(tmp_path)) if word in text]


@pytest.mark.parametrize(
    ("about", "words"),
    [
        ({"known": False, "num_photographs": 0, "leaked_share": 0.0}, "It is not known whose photographs"),
        ({"known": True, "num_photographs": 9, "leaked_share": None}, "Nobody has told who is on them"),
        ({"known": True, "num_photographs": 9, "leaked_share": 0.25}, "The people on 25.0% of the test images"),
    ],
)
def test_a_leak_is_not_hidden(tmp_path, about, words):
    assert words in card(tmp_path, metrics=METRICS | {"lineage": about})


def test_drawn_faces_and_null_arms_are_called_so(tmp_path):
    config = CONFIG | {"balance": {"name": "none", "permute_labels": "all"}}
    text = card(tmp_path, source="toy", config=config)
    assert "drawn by code: this says nothing about photographs" in text
    assert "labels permuted" in text
