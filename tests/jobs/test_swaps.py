"""The GANs of a severity swap, with networks of the smallest size."""

import pickle

import numpy as np
import pytest
from PIL import Image
from tiny import composed, tiny_weights

from acne_lab.data.toy import ToyFaces
from acne_lab.jobs.edits import inputs_of, make_editor
from acne_lab.jobs.swaps import find_swap, make_swap


@pytest.fixture(scope="module")
def gans(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gans")
    base = tiny_weights(folder / "base.safetensors")
    return {"base": str(base), "severe": str(tiny_weights(folder / "severe.safetensors", start_from=base))}


def test_both_models_draw_the_projection(gans, tmp_path):
    swap, keys, lineage = find_swap(gans, str(tmp_path), num_steps=3)
    crop = np.random.default_rng(0).integers(0, 256, (40, 40, 3)).astype(np.uint8)
    base, severe = swap(crop, "severe", 0)
    assert base.shape == severe.shape == (16, 16, 3) and base.dtype == np.uint8
    assert not np.array_equal(base, severe)
    assert len(keys) == 3 and keys[0].startswith("base:") and keys[1].startswith("severe:")
    assert not lineage.known  # weights from elsewhere
    travelled = pickle.loads(pickle.dumps(swap))
    for there, here in zip(travelled(crop, "severe", 0), (base, severe)):
        assert np.array_equal(there, here)
    assert not np.array_equal(swap(crop, "severe", 1)[0], base)
    with pytest.raises(ValueError, match="no model of mild, only of severe"):
        swap(crop, "mild", 0)


def test_equal_models_draw_the_same(gans, tmp_path):
    swap = make_swap({**gans, "severe": gans["base"]}, str(tmp_path), num_steps=2)
    base, severe = swap(np.zeros((16, 16, 3), dtype=np.uint8), "severe", 0)
    assert np.abs(base.astype(int) - severe).max() <= 1


def test_gans_that_do_not_fit(gans, tmp_path):
    for given in (None, {}, {"base": gans["base"]}, {"severe": gans["severe"]}):
        with pytest.raises(ValueError, match="a severity swap needs models"):
            make_swap(given, str(tmp_path))
    other = tiny_weights(tmp_path / "other.safetensors", w_dim=8)
    with pytest.raises(ValueError, match="width of w"):
        make_swap({"base": gans["base"], "severe": str(other)}, str(tmp_path))
    labelled = tiny_weights(tmp_path / "labelled.safetensors", c_dim=4)
    with pytest.raises(ValueError, match="unconditional"):
        make_swap({"base": gans["base"], "severe": str(labelled)}, str(tmp_path))


def test_the_shipped_config_edits_a_drawn_face(gans, tmp_path):
    faces = ToyFaces(resolution=96, class_counts={"mild": 1}, seed=4)
    name = faces.collect(tmp_path, 0).rows["file_name"][0]
    photo = np.asarray(Image.open(tmp_path / name).convert("RGB"))
    words = (f"edit.gans={{base: '{gans['base']}', severe: '{gans['severe']}'}}", "edit.projection.num_steps=2")
    config = composed("balance", "table=x", "edit=severity_swap", *words, "edit.editor.analyse.landmarks=false")
    editor, (keys, _) = (make(config["edit"], None, str(tmp_path)) for make in (make_editor, inputs_of))
    edit = editor(photo, boxes=None, num_added=9, severity="severe", seed=0)
    assert edit.lesions_added is None and edit.mask.any()
    assert (edit.image[~edit.mask] == photo[~edit.mask]).all()
    assert any("w:2:" in key for key in keys)  # the projection is part of what an edit depends on
