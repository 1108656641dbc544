"""Editors from shipped configs, and real edits of drawn faces through `acne-lab balance`."""

import numpy as np
import pytest
from PIL import Image
from tiny import composed

from acne_lab.data.lineage import Lineage
from acne_lab.data.table import ImageTable
from acne_lab.jobs.balance import balance
from acne_lab.jobs.edits import make_editor
from acne_lab.jobs.prepare import prepare

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


def test_an_editor_that_has_learned_from_nothing(table):
    editor, keys, lineage = make_editor(composed("balance", "table=x", "edit=overlay")["edit"], table, "runs")
    assert callable(editor)
    assert keys == [f"faces:{','.join(editor.analyse.finder.detectors)}"]  # what is installed decides what is found
    assert lineage.known
    assert len(lineage) == 0


def test_the_name_of_an_edit_says_what_ran(table):
    """A refined edit is not called an overlay: studies compare the two."""
    words = ("table=x", "edit=overlay", "edit.refiner=some")
    with pytest.raises(ValueError, match="would call refined edits overlay: choose edit=refined"):
        make_editor(composed("balance", *words)["edit"], table, "runs")
    for name in ("refined", "mine"):
        words = ("table=x", "edit=overlay", "edit.refiner=some", f"edit.name={name}")
        with pytest.raises(ValueError, match="there is no run some"):
            make_editor(composed("balance", *words)["edit"], table, "runs")


def test_a_bank_descends_from_the_training_rows(table):
    """All of them: any of its lesions may come from any of them. The test rows are not among them."""
    edit = composed("balance", "table=x", "edit=overlay_bank", NO_LANDMARKS)["edit"]
    _, (key,), lineage = make_editor(edit, table, "runs")
    training = table.select(split="train")
    assert key == f"bank:{training.key}"
    assert set(lineage.rows["sha256"]) == set(training.rows["sha256"])
    assert not lineage.touched(table.select(split="test"))


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
