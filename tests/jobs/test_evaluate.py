"""`evaluate` on edits that anybody would spot, on edits that are none, and on tables that it must refuse."""

import re
import shutil

import numpy as np
import pandas as pd
import pytest
from edited import NUM_ADDED, edited_run
from PIL import Image
from tiny import composed

from acne_lab.data.lineage import Lineage
from acne_lab.data.table import ImageTable
from acne_lab.edit.encoding import save_like
from acne_lab.jobs.evaluate import evaluate
from acne_lab.jobs.patches import unedited
from acne_lab.jobs.prepare import prepare

SMALL = ("num_photos=30", "num_patches=60", "patch_side=32", "num_threads=1")


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> ImageTable:
    """72 toy faces of 96 px, each of another person, two fifths in val."""
    runs_dir = tmp_path_factory.mktemp("runs")
    faces = (
        "data.resolution=96",
        "data.num_workers=0",
        "data.source.photos_per_subject=1",
        "data.source.class_counts={mild: 2, moderate: 2, severe: 52, very_severe: 16}",
        "data.split.fractions={train: 0.5, val: 0.4, test: 0.1}",
    )
    return ImageTable.read(prepare(composed("prepare", *faces, f"runs_dir={runs_dir}")).path)


@pytest.fixture(scope="module")
def runs(source, tmp_path_factory):
    """A finished run of `evaluate` for each way to edit."""
    runs_dir = tmp_path_factory.mktemp("evaluated")
    ways = ("discs", "nothing", "unlisted")
    tables = {how: edited_run(runs_dir, source, how=how, num=20) for how in ways}
    return {
        how: evaluate(composed("evaluate", f"table={t}", f"runs_dir={runs_dir}", *SMALL)) for how, t in tables.items()
    }


def test_stickers_are_told_apart_and_untouched_photographs_are_not(runs):
    discs, nothing = (runs[how].metrics["realism"] for how in ("discs", "nothing"))
    assert discs["auc"]["value"] > 0.95 and discs["auc"]["low"] > 0.85
    assert discs["kd"]["low"] > 0 and discs["rim"]["low"] > 1.2
    assert discs["a_star"]["low"] > 2 and discs["delta_e"]["low"] > 2
    assert discs["delta_e_ring"]["value"] == discs["changed_outside"]["value"] == 0
    for name, truth, no_excess in (("auc", 0.5, 0), ("kd", 0, 0), ("rim", 1, 1)):
        for figure in (nothing[f"{name}_control"], discs[f"{name}_control"]):
            assert figure["low"] <= truth <= figure["high"], name
        excess = nothing[f"{name}_excess"]  # an edit that changes nothing has none, whoever the other people are
        assert excess["low"] <= no_excess <= excess["high"], name
        assert discs[f"{name}_excess"]["low"] > no_excess, name
    assert discs["auc_unedited"]["value"] < 0.8
    assert nothing["seam"] == {"value": 1, "low": 1, "high": 1}
    assert nothing["delta_e"]["value"] == 0


def test_a_run_is_whole_and_memoised(runs):
    run = runs["discs"]
    metrics = run.metrics
    assert run.done and run.job == "evaluate"
    assert (metrics["edits"], metrics["reference"], metrics["num_images"]) == (["discs"], "val", 20)
    patches = pd.read_csv(run.path / "patches.csv")
    assert patches["set"].value_counts().to_dict() == dict.fromkeys(("real", "edited"), metrics["num_patches"])
    pairs = patches.pivot(index="pair", columns="set", values="size")
    assert (np.abs(np.log(pairs["real"] / pairs["edited"])) <= np.log(1.25) + 0.01).all()
    photos = pd.read_csv(run.path / "photos.csv")
    assert len(photos) == 20 and photos["num_added"].max() <= NUM_ADDED
    for name in ("edits_severe.png", "lesions.png"):
        with Image.open(run.path / "samples" / name) as sheet:
            assert min(sheet.size) > 100
    page = (run.path / "report.html").read_text()
    assert "can be told apart, and by more than whose photographs they are" in page and "drawn by code" in page
    assert "Before the edit" in page and "beyond that" in page
    assert not re.search(r"(src|href)=\"(?!data:|#)", page) and "<script" not in page
    stamp = (run.path / "DONE").stat().st_mtime_ns
    config = composed("evaluate", f"table={run.path.parents[1] / 'balance/discs-0123456789'}", *SMALL)
    again = evaluate({**config, "runs_dir": str(run.path.parents[1])})
    assert again.path == run.path and (run.path / "DONE").stat().st_mtime_ns == stamp


def test_real_lesions_are_of_the_reference_split_and_never_of_the_edits(runs, source):
    patches = pd.read_csv(runs["discs"].path / "patches.csv", dtype={"subject": str})
    people = {kind: set(group["subject"]) for kind, group in patches.groupby("set")}
    part = source.rows.groupby("split")["subject"].agg(set)
    assert people["real"] <= part["val"] and people["edited"] <= part["train"]
    assert set(patches.loc[patches["set"] == "real", "severity"]) == {"severe"}


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_photograph_is_compressed_as_an_edit_is(source, tmp_path, suffix):
    """So an edit that changes nothing has no seam, no colour and nothing that gives it away."""
    photo = source.root / source.rows["file_name"][0]
    pixels = np.asarray(Image.open(photo).convert("RGB"))
    first, second = tmp_path / f"photo.{suffix}", tmp_path / f"edit.{suffix}"
    Image.fromarray(pixels).save(first, **({"quality": 70} if suffix == "jpg" else {}))
    decoded = np.asarray(Image.open(first).convert("RGB"))
    save_like(decoded, first, second)
    assert np.array_equal(unedited(first), np.asarray(Image.open(second).convert("RGB")))


def test_edits_that_keep_no_list_are_compared_where_they_are_red(runs):
    metrics = runs["unlisted"].metrics
    assert metrics["lists_lesions"] is False
    assert "auc" in metrics["realism"] or "Lesions were not compared" in metrics["notes"][0]
    assert "keeps no list" in (runs["unlisted"].path / "report.html").read_text()


def test_too_few_people_leave_the_lesions_out(source, tmp_path):
    table = edited_run(tmp_path, source, how="discs", num=3)
    run = evaluate(composed("evaluate", f"table={table}", f"runs_dir={tmp_path}", *SMALL))
    assert "Lesions were not compared" in run.metrics["notes"][0]
    assert "auc" not in run.metrics["realism"] and "seam" in run.metrics["realism"]
    assert "Lesions were not compared" in (run.path / "report.html").read_text()
    assert not (run.path / "patches.csv").exists()


def test_what_cannot_be_evaluated(source, tmp_path):
    def refused(match, *words):
        with pytest.raises(ValueError, match=match):
            evaluate(composed("evaluate", f"runs_dir={tmp_path}", *SMALL, *words))
        assert not list(tmp_path.glob("evaluate/*/config.yaml"))

    refused("72 toy rows and none that was edited", f"table={source.root}")
    table = edited_run(tmp_path, source, how="discs", num=8)
    refused("patch_side must be at least 32, not 8", f"table={table}", "patch_side=8")
    refused("reference must be train, val, test", f"table={table}", "reference=all")
    lonely = shutil.copytree(table / "table", tmp_path / "lonely")
    refused("nothing says which table", f"table={lonely}")
    refused("parents of .* are not in", f"table={lonely}", f"source={lonely}")
    mask = next((table / "table" / "masks").iterdir())
    Image.new("L", (7, 7)).save(mask)
    refused("its mask 7 x 7", f"table={table}")


def test_edits_that_have_seen_the_reference_are_refused(source, tmp_path):
    table = edited_run(tmp_path, source, how="discs", num=3)
    words = (f"table={table}", f"runs_dir={tmp_path}", *SMALL)
    own = (table / "table" / "lineage.csv").read_text()
    val = source.select(split="val")
    Lineage.merged(Lineage.of(source.select(split="train")), Lineage.of(val)).write(table / "table")
    name = val.rows.loc[val.rows["severity"] == "severe", "file_name"].iloc[0]
    with pytest.raises(ValueError, match=rf"has seen the people on(?s:.*){name}"):
        evaluate(composed("evaluate", *words))
    (table / "table" / "lineage.csv").unlink()
    with pytest.raises(ValueError, match="allow_unknown_parents=true"):
        evaluate(composed("evaluate", *words))
    run = evaluate(composed("evaluate", *words, "allow_unknown_parents=true"))
    assert "Nobody has listed which photographs" in (run.path / "report.html").read_text()
    (table / "table" / "lineage.csv").write_text(own)
    assert evaluate(composed("evaluate", *words)).path != run.path  # whose page need not say so


def test_a_table_of_the_same_names_and_other_photographs_is_not_the_source(source, tmp_path):
    table = edited_run(tmp_path, source, how="discs", num=3)
    other = shutil.copytree(source.root, tmp_path / "other")
    rows = pd.read_csv(other / "metadata.csv", dtype=str, keep_default_na=False)
    rows["sha256"] = [f"{k:064x}" for k in range(len(rows))]
    rows.to_csv(other / "metadata.csv", index=False)
    with pytest.raises(ValueError, match=r"other content(?s:.*)source="):
        evaluate(composed("evaluate", f"table={table}", f"source={other}", f"runs_dir={tmp_path}", *SMALL))


def test_a_table_may_name_its_source(source, tmp_path):
    table = edited_run(tmp_path, source, how="discs", num=8)
    lonely = shutil.copytree(table / "table", tmp_path / "lonely")
    words = (f"runs_dir={tmp_path}", *SMALL, "num_photos=3")
    run = evaluate(composed("evaluate", f"table={lonely}", f"source={source.root}", *words))
    assert evaluate(composed("evaluate", f"table={table}", *words)).path == run.path
