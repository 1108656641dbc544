"""Editors from shipped configs, and real edits of drawn faces through `acne-lab balance`."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny import composed

from acne_lab.data.lineage import Lineage, check_parents, check_table, require_held_out
from acne_lab.data.splits import subject_split
from acne_lab.data.table import ImageTable
from acne_lab.edit.networks import Inpainter
from acne_lab.edit.plan import plan_edits
from acne_lab.edit.weights import save_refiner
from acne_lab.jobs.balance import balance
from acne_lab.jobs.edits import (
    edited_rows,
    inputs_of,
    make_editor,
    next_candidates,
    realised_text,
    task_of,
    without_places,
)
from acne_lab.jobs.prepare import prepare
from acne_lab.runs import Run

FACES = (
    "data.resolution=256",
    "data.num_workers=1",
    "data.source.class_counts={mild: 8, moderate: 8, severe: 3, very_severe: 3}",
)
NO_LANDMARKS = "edit.editor.analyse.landmarks=false"  # drawn faces need none, and detectors take their time to load


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    runs_dir = tmp_path_factory.mktemp("runs")
    return ImageTable.read(prepare(composed("prepare", *FACES, f"runs_dir={runs_dir}")).path)


def edit_node(*words):
    return composed("balance", "table=x", *words)["edit"]


def test_an_editor_that_has_learned_from_nothing(table):
    edit = edit_node("edit=overlay")
    keys, lineage = inputs_of(edit, table, "runs")
    finder = make_editor(edit, table, "runs").analyse.finder
    assert keys == [f"faces:{finder.fingerprint}"]  # what is installed decides what is found
    assert lineage.known
    assert len(lineage) == 0


def test_the_name_of_an_edit_says_what_ran(table):
    """A refined edit is not called an overlay: studies compare the two."""
    words = ("edit=overlay", "edit.refiner=some")
    with pytest.raises(ValueError, match="would call refined edits overlay: choose edit=refined"):
        inputs_of(edit_node(*words), table, "runs")
    for name in ("refined", "mine"):
        with pytest.raises(ValueError, match="there is no run some"):
            inputs_of(edit_node(*words, f"edit.name={name}"), table, "runs")


def test_a_bank_descends_from_the_training_rows(table):
    """All of them: any of its lesions may come from any of them. The test rows are not among them."""
    (key,), lineage = inputs_of(edit_node("edit=overlay_bank", NO_LANDMARKS), table, "runs")
    training = table.select(split="train")
    assert key == f"bank:{training.key}"
    assert set(lineage.rows["sha256"]) == set(training.rows["sha256"])
    assert not lineage.touched(table.select(split="test"))


def test_models_of_faces_count_by_their_content(table, tmp_path):
    """A folder of detectors that has moved changes nothing; other content in its place does."""
    pytest.importorskip("ai_edge_litert")

    def inputs(folder, content):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "face_detection_back.tflite").write_bytes(content)
        edit = edit_node("edit=overlay", f"edit.editor.analyse.blazeface='{tmp_path / folder}'")
        return inputs_of(edit, table, "runs")[0], without_places(edit)

    first = inputs("here", b"one")
    assert inputs("moved", b"one") == first
    assert inputs("here", b"two") != first


def test_lesions_that_were_counted_and_not_boxed_are_looked_for(table, tmp_path):
    """Of a photograph with lesions but without boxes nobody knows where they are; of one without lesions, everybody."""
    rows = table.rows.set_index("file_name")["lesions"]
    boxed = dict(list(table.boxes.groupby("file_name")))
    (name, none) = (rows[rows > 0].index[0], "images/clear.png")
    run = Run(tmp_path / "some-0123456789")
    edit = {"severity": "severe", "num_added": 9, "seed": 1}

    def boxes(file_name, lesions, known):
        return task_of(
            run, table, 0, pd.Series({**edit, "file_name": file_name, "lesions_before": lesions}), known
        ).boxes

    assert len(boxes(name, rows[name], boxed)) == rows[name]
    assert boxes(name, rows[name], {}) is None
    assert boxes(none, 0, boxed).shape == (0, 4)
    assert boxes(none, 0, None) is None


def test_spares_are_like_those_they_stand_for():
    """Of the same skin tone where one is left, whatever came back first."""
    tones = ["I", "VI", "I", "I", "I", "VI"]
    plan = pd.DataFrame({"severity": "severe", "is_spare": [False] * 3 + [True] * 3, "tone": tones})
    plan = plan.assign(subject=list("abcdef"), file_name=list("abcdef"))
    made, skipped = {}, {"skipped": "no skin found"}
    assert next_candidates(plan, {}) == [0, 1, 2]
    assert next_candidates(plan, {1: skipped}) == [0, 2]  # a killed run: spares come when all were tried
    assert next_candidates(plan, {0: made, 1: skipped, 2: made}) == [5]
    assert next_candidates(plan, {2: made, 1: skipped, 0: skipped}) == [3, 5]
    last = {0: made, 1: skipped, 2: made, 5: skipped}
    assert next_candidates(plan, last) == [3]
    assert next_candidates(plan, {**last, 3: made}) == []
    text = realised_text(plan, {**last, 3: made})
    assert "2 of 5 edits that were tried were skipped (40%)" in text
    assert "people: 3 planned, 3 edited" in text and "planned I: 2, VI: 1; edited I: 3" in text
    assert "many were skipped" in text
    assert realised_text(plan, {0: made, 1: made, 2: made}) == "0 of 3 edits that were tried were skipped (0%)"


def test_a_finished_run_is_found_without_its_editor(table, tmp_path, monkeypatch):
    """A bank decodes hundreds of photographs: not to find what is done."""
    words = (f"table='{table.root}'", "edit=overlay_bank", NO_LANDMARKS, f"runs_dir={tmp_path}", "num_workers=1")
    config = composed("balance", *words, "balance.targets={severe: 4, very_severe: null}")
    run = balance(config)
    monkeypatch.setattr("acne_lab.edit.bank.LesionBank.__init__", lambda *args, **kwargs: 1 / 0)
    assert balance(config).path == run.path


def test_refined_edits_are_the_same_of_any_number_of_processes(table, tmp_path):
    torch.manual_seed(0)
    network = Inpainter(width=4, num_down=2, num_blocks=1)
    torch.nn.init.normal_(network.leave.weight, std=5.0)  # of one that has learned
    save_refiner(tmp_path / "some.safetensors", network, window=64)
    words = (f"table='{table.root}'", "edit=refined", f"edit.refiner={tmp_path / 'some.safetensors'}", NO_LANDMARKS)
    tables = []
    for num_workers in (1, 2):
        runs = (f"runs_dir={tmp_path / str(num_workers)}", f"num_workers={num_workers}")
        run = balance(composed("balance", *words, *runs, "balance.targets={severe: 5, very_severe: null}"))
        tables.append(ImageTable.read(run.path))
    one, two = (added.rows.set_index("file_name")["sha256"].to_dict() for added in tables)
    assert one == two and len(one) == 2
    assert not Lineage.read(tables[0].root).known  # of weights that come from nowhere


@pytest.mark.parametrize("edit", ["overlay", "overlay_bank"])
def test_real_edits(table, tmp_path, edit):
    """They change the mask and nothing else, add what the plan says, and are written as their photographs are."""
    words = (f"table='{table.root}'", f"edit={edit}", NO_LANDMARKS, f"runs_dir={tmp_path}", "num_workers=1")
    run = balance(composed("balance", *words, "balance.targets={severe: 6, very_severe: 4}"))
    added = ImageTable.read(run.path)
    assert added.rows["severity"].value_counts().to_dict() == {"severe": 3, "very_severe": 1}
    assert set(added.rows["edit"]) == {edit}
    for row in added.rows.itertuples():
        edited = np.asarray(Image.open(added.root / row.file_name), dtype=float)
        photo = np.asarray(Image.open(table.root / row.parent), dtype=float)
        mask = np.asarray(Image.open(added.root / row.mask)) > 0
        assert row.file_name.endswith(".png") and row.parent.endswith(".png")
        assert np.array_equal(edited[~mask], photo[~mask]) and mask.mean() < 0.5
        assert np.abs(edited - photo)[mask].mean() > 1
        assert (
            (added.boxes["file_name"] == row.file_name).sum() == row.lesions == row.lesions_before + row.lesions_added
        )
    learned = set(table.select(split="train").rows["sha256"]) if edit == "overlay_bank" else None
    parents = set(table.rows.set_index("file_name").loc[added.rows["parent"], "sha256"])
    assert set(Lineage.read(added.root).rows["sha256"]) == (learned or parents)


CLASSES = ("mild", "moderate", "severe", "very_severe")


@st.composite
def photographs(draw) -> ImageTable:
    """Photographs of 8 to 16 people, one to three each, split by subject: some mild ones among the training rows."""
    rows = []
    for person in range(draw(st.integers(8, 16))):
        for photo in range(draw(st.integers(1, 3))):
            grade = draw(st.integers(0, 3)) if rows else 0
            about = {"subject": f"s{person}", "lesions": (3, 12, 30, 60)[grade], "severity": CLASSES[grade]}
            rows.append(about | {"file_name": f"images/{person}_{photo}.jpg", "sha256": f"{person}/{photo}"})
    frame = pd.DataFrame(rows).assign(source="real", parent="")
    frame["split"] = subject_split(frame, seed=draw(st.integers(0, 10**6)))
    frame.loc[frame["subject"] == "s0", "split"] = "train"
    return ImageTable(root=Path("photos"), rows=frame, classes=CLASSES, report={"population": "p"})


@settings(max_examples=40, deadline=None)
@given(data=st.data(), table=photographs(), seed=st.integers(0, 10**6))
def test_edits_descend_from_training_rows_and_no_others_would_pass(data, table, seed):
    """The planner and the rows of `acne-lab balance`, with nothing drawn; then one parent is taken from elsewhere."""
    plan = plan_edits(table.rows, CLASSES, {"very_severe": 1}, sources="lower", seed=seed)
    plan = plan[~plan["is_spare"]]
    outcomes = {
        i: {"lesions_added": edit.num_added, "sha256": f"edit {i}", "parameters": {}}
        for i, edit in zip(plan.index, plan.itertuples())
    }
    rows = edited_rows(Run(Path("runs/balance/dots-0123456789")), table, plan, outcomes, name="dots")
    added = ImageTable(root=Path("added"), rows=rows, classes=CLASSES)
    check_parents(added, table)
    parents = table.only(table.rows["file_name"].isin(added.rows["parent"]))
    require_held_out(Lineage.of(parents), table, what="edits")
    together = pd.concat([table.rows, rows], ignore_index=True)
    check_table(ImageTable(root=Path("both"), rows=together, classes=CLASSES))

    others = table.rows[(table.rows["split"] != "train") | ~table.rows["subject"].isin(rows["subject"])]
    other = data.draw(st.sampled_from(others["file_name"].tolist()))
    with pytest.raises(ValueError, match="not of a training photograph of their own subject"):
        check_parents(ImageTable(root=Path("added"), rows=rows.assign(parent=other), classes=CLASSES), table)
    if (elsewhere := table.only(table.rows["file_name"] == other)).rows["split"].item() != "train":
        with pytest.raises(ValueError, match="edits has seen"):
            require_held_out(Lineage.of(elsewhere), table, what="edits")
