"""What is compared, and with which controls, on patches of noise whose differences are known."""

import numpy as np
import pytest

from acne_lab.jobs.comparison import NUM_CONTROLS, compare
from acne_lab.jobs.patches import LesionPatches

SIDE = 32


def lesions(tag: str, counts: list[int], *, seed: int, tint: int = 0, sticker: bool = False) -> LesionPatches:
    """Noise of SIDE px, `counts[i]` patches of subject i: tinted as if by another camera, or with a flat square."""
    rng = np.random.default_rng(seed)
    patches = LesionPatches(side=SIDE, per_photo=100, seed=0)
    for subject in np.repeat(np.arange(len(counts)), counts):
        pixels = rng.integers(90, 160, (SIDE, SIDE, 3), dtype=np.uint8)
        pixels[..., 0] += tint
        if sticker:
            pixels[10:22, 10:22] = (180, 60, 60)
        patches.pixels.append(pixels)
        about = {"file_name": f"{tag}{subject}.png", "subject": f"{tag}{subject}", "severity": "severe"}
        patches.rows.append({**about, "x0": 0.0, "y0": 0.0, "x1": 1.0, "y1": 1.0, "size": 20.0})
    return patches


def test_one_busy_person_is_not_what_is_compared():
    """60 lesions of one person and two each of nine others: halves by lesions were one person against nine."""
    real, made = lesions("r", [60] + [2] * 9, seed=0), lesions("m", [6] * 13, seed=1)
    found, notes = compare(real, made, lesions("m", [6] * 13, seed=2), num_pairs=100, seed=0)
    assert {"auc", "auc_control", "kd_control", "rim_control"} <= set(found.figures) and notes == []
    rows = found.patches[found.patches["set"] == "real"]
    assert rows["subject"].value_counts().max() <= 6 and rows["subject"].nunique() == 10


def test_a_control_of_too_few_people_is_left_out_and_said(monkeypatch):
    """Sizes that differ between people leave halves of fewer than four; no figure rests on those."""
    monkeypatch.setattr("acne_lab.jobs.comparison.match_sizes", halving(compare.__globals__["match_sizes"]))
    real, made = lesions("r", [2] * 10, seed=0), lesions("m", [2] * 10, seed=1)
    found, notes = compare(real, made, lesions("m", [2] * 10, seed=2), num_pairs=100, seed=0)
    assert "auc" in found.figures and "auc_control" not in found.figures
    assert f"none of {NUM_CONTROLS}" in notes[0]


def halving(match):
    """The same pairs where all sizes are there; of halves only two, as if no other had a match."""
    return lambda a, b, rng, **more: tuple(k if len(a) >= 20 else k[:2] for k in match(a, b, rng, **more))


def test_what_the_photographs_differ_in_is_not_the_edits_doing(monkeypatch):
    """Edited photographs of another camera: edits are told apart, no more than what the photographs had before; with
    stickers on the same photographs, more."""
    monkeypatch.setattr("acne_lab.jobs.comparison.NUM_CONTROLS", 1)
    real, own = lesions("r", [6] * 12, seed=0), lesions("m", [6] * 12, seed=1, tint=12)
    good, bad = (lesions("m", [6] * 12, seed=2, tint=12), lesions("m", [6] * 12, seed=2, tint=12, sticker=True))
    found, notes = compare(real, good, own, num_pairs=48, seed=0)
    figures = found.figures
    assert figures["auc"].low > 0.7 and figures["auc_unedited"].low > 0.7 and notes == []
    assert figures["auc_excess"].low <= 0 <= figures["auc_excess"].high
    assert figures["kd_excess"].low <= 0 <= figures["kd_excess"].high
    assert figures["rim_excess"].low <= 1 <= figures["rim_excess"].high
    figures = compare(real, bad, own, num_pairs=48, seed=0)[0].figures
    assert figures["kd_excess"].low > 0 and figures["rim_excess"].high < 1  # flat in noise: steep nowhere
    assert figures["kd_excess"].value == pytest.approx(figures["kd"].value - figures["kd_unedited"].value)


def test_photographs_without_lesions_of_their_own_are_no_control():
    real, made, none = lesions("r", [6] * 12, seed=0), lesions("m", [6] * 12, seed=1), lesions("m", [], seed=2)
    found, notes = compare(real, made, none, num_pairs=48, seed=0)
    assert "auc" in found.figures and not any(name.endswith(("unedited", "excess")) for name in found.figures)
    assert len(found.patches) == 96 and "nothing says how much these photographs differ" in notes[0]


@pytest.mark.parametrize("counts", [[9] * 7, [50] + [1] * 6])
def test_too_few_people_are_not_compared(counts):
    made, own = (lesions("m", [9] * 9, seed=seed) for seed in (1, 2))
    found, notes = compare(lesions("r", counts, seed=0), made, own, num_pairs=100, seed=0)
    assert found is None and "Lesions were not compared" in notes[0]
