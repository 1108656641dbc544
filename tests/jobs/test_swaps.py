"""The GANs of a severity swap, with networks of the smallest size."""

import pickle

import numpy as np
import pytest
from tiny import tiny_weights

from acne_lab.jobs.swaps import make_swap


@pytest.fixture(scope="module")
def gans(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gans")
    base = tiny_weights(folder / "base.safetensors")
    return {"base": str(base), "severe": str(tiny_weights(folder / "severe.safetensors", start_from=base))}


def test_both_models_draw_the_projection(gans, tmp_path):
    swap, keys, lineage = make_swap(gans, str(tmp_path), num_steps=3)
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
    swap, *_ = make_swap({**gans, "severe": gans["base"]}, str(tmp_path), num_steps=2)
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
