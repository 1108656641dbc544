"""Lesions of two sets whose people have very unequal numbers of them."""

import numpy as np
import pytest

from acne_lab.jobs.comparison import NUM_CONTROLS, compare
from acne_lab.jobs.patches import Patches

SIDE = 32


def lesions(tag: str, counts: list[int], *, seed: int, size=lambda rng: 20.0) -> Patches:
    """Noise of SIDE px, `counts[i]` patches of subject i."""
    rng = np.random.default_rng(seed)
    patches = Patches(side=SIDE, per_photo=100, seed=0)
    for subject in np.repeat(np.arange(len(counts)), counts):
        patches.pixels.append(rng.integers(90, 160, (SIDE, SIDE, 3), dtype=np.uint8))
        about = {"file_name": f"{tag}{subject}.png", "subject": f"{tag}{subject}", "severity": "severe"}
        patches.rows.append({**about, "x0": 0.0, "y0": 0.0, "x1": 1.0, "y1": 1.0, "size": size(rng)})
    return patches


def test_one_busy_person_is_not_what_is_compared():
    """60 lesions of one person and two each of nine others: halves by lesions were one person against nine."""
    real, made = lesions("r", [60] + [2] * 9, seed=0), lesions("m", [6] * 13, seed=1)
    found, notes = compare(real, made, num_pairs=100, seed=0)
    assert {"auc", "auc_control", "kd_control", "rim_control"} <= set(found.figures) and notes == []
    rows = found.patches[found.patches["set"] == "real"]
    assert rows["subject"].value_counts().max() <= 6 and rows["subject"].nunique() == 10


def test_a_control_of_too_few_people_is_left_out_and_said(monkeypatch):
    """Sizes that differ between people leave halves of fewer than four; no figure rests on those."""
    monkeypatch.setattr("acne_lab.jobs.comparison.match_sizes", halving(compare.__globals__["match_sizes"]))
    real, made = lesions("r", [2] * 10, seed=0), lesions("m", [2] * 10, seed=1)
    found, notes = compare(real, made, num_pairs=100, seed=0)
    assert "auc" in found.figures and "auc_control" not in found.figures
    assert f"none of {NUM_CONTROLS}" in notes[0]


def halving(match):
    """The same pairs where all sizes are there; of halves only two, as if no other had a match."""
    return lambda a, b, rng, **more: tuple(k if len(a) >= 20 else k[:2] for k in match(a, b, rng, **more))


@pytest.mark.parametrize("counts", [[9] * 7, [50] + [1] * 6])
def test_too_few_people_are_not_compared(counts):
    found, notes = compare(lesions("r", counts, seed=0), lesions("m", [9] * 9, seed=1), num_pairs=100, seed=0)
    assert found is None and "Lesions were not compared" in notes[0]
