"""What `run=` names, loaded for sampling."""

import pytest
import torch
from tiny import composed, tiny_weights

from acne_lab.build import build
from acne_lab.jobs.gans import find_gan, load_generator


@pytest.mark.parametrize(("fast", "used"), [(0, 0), (4, 2)])
def test_16_bit_is_used_only_where_it_is_fast(tmp_path, monkeypatch, fast, used):
    """Whatever the networks were trained with."""
    monkeypatch.setattr("acne_lab.jobs.gans.fast_half_res", lambda: fast)
    gan = find_gan(str(tiny_weights(tmp_path / "half.safetensors", num_half_res=2)), "runs")
    G = load_generator(gan)
    assert G.init_kwargs["num_half_res"] == used
    ws = G.mapping(torch.randn(2, 16, device=next(G.parameters()).device))
    in_float32 = G.synthesis(ws, noise_mode="const", force_fp32=True)
    assert torch.equal(G.synthesis(ws, noise_mode="const"), in_float32) == (used == 0)


def test_the_shipped_weights_list_the_people_of_their_recipe():
    source = composed("train", "experiment=toy_faces_64")["data"]["source"]
    people = {f"s{shot.subject:05d}" for shot in build(source).shots()}
    lineage = find_gan("toy_faces_64", "runs").lineage
    assert lineage.known
    assert set(lineage.rows["subject"]) == people
    assert lineage.rows["population"].unique().tolist() == [f"toy-{source['seed']}"] == ["toy-1000"]
