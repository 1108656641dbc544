"""Exported generators compute our images, for other batches and psi than they were traced with."""

import pytest
import torch

from acne_lab.gan import Generator
from acne_lab.gan.export import Exported, inputs, to_onnx, to_torchscript
from acne_lab.ops import extension

SMALL_G = {
    "img_resolution": 8,
    "z_dim": 8,
    "w_dim": 12,
    "num_mapping_layers": 1,
    "channel_base": 64,
    "channel_max": 8,
    "num_half_res": 2,
}


def generator(**kwargs) -> Generator:
    torch.manual_seed(0)
    G = Generator(**SMALL_G, **kwargs)
    with torch.no_grad():
        for name, tensor in G.state_dict().items():
            if name.endswith(("noise_strength", "w_avg")):
                tensor.normal_()
    return G


@torch.no_grad()
@pytest.mark.parametrize("c_dim", [0, 3])
def test_what_is_exported(c_dim):
    """Labels, truncation, the stored noise, float32 everywhere; psi of 1 truncates nothing."""
    G = generator(c_dim=c_dim)
    z = torch.randn(3, 8)
    c = torch.eye(3) if c_dim else None
    labels = () if c is None else (c,)
    for psi in (1.0, 0.5):
        expected = G.synthesis(G.mapping(z, c, truncation_psi=psi), "const", force_fp32=True)
        torch.testing.assert_close(Exported(G)(z, *labels, torch.tensor(psi)), expected)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("c_dim", [0, 3])
@pytest.mark.parametrize("architecture", ["skip", "resnet"])
def test_torchscript_is_exact(tmp_path, c_dim, architecture):
    G = generator(c_dim=c_dim, architecture=architecture)
    to_torchscript(G, tmp_path / "x.pt")
    loaded = torch.jit.load(tmp_path / "x.pt")
    assert "acne_lab::" not in str(loaded.inlined_graph)  # operators that other programs do not have
    for n, psi in ((1, 1.0), (4, 0.3)):
        given = inputs(G, n, psi).values()
        with extension.use("reference"):
            assert torch.equal(loaded(*given), Exported(G)(*given))


@torch.no_grad()
def test_onnx_is_close(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    G = generator(c_dim=3)
    assert to_onnx(G, tmp_path / "x.onnx") < 1e-4
    assert [p.name for p in tmp_path.iterdir()] == ["x.onnx"]
    session = onnxruntime.InferenceSession(tmp_path / "x.onnx", providers=["CPUExecutionProvider"])
    assert [x.name for x in session.get_inputs()] == ["z", "c", "psi"]
    for n, psi in ((1, 1.0), (5, 0.3)):
        given = inputs(G, n, psi)
        [images] = session.run(None, {name: x.numpy() for name, x in given.items()})
        torch.testing.assert_close(torch.from_numpy(images), Exported(G)(*given.values()), atol=1e-4, rtol=1e-4)
