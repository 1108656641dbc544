"""`acne-lab convert` from a run to every kind of file, and runs that start from such files."""

import json
import re
import sys

import numpy as np
import pytest
import torch
from released_files import SMALL_D, SMALL_G, released_content, write
from tiny import TINY_GAN, TINY_GRADER, TOY, composed

from acne_lab.gan import Discriminator, Generator
from acne_lab.gan.export import Exported, inputs
from acne_lab.gan.weights import NETWORKS_FILE, read_networks
from acne_lab.jobs.convert import convert, main
from acne_lab.jobs.prepare import table_of
from acne_lab.jobs.train import train
from acne_lab.jobs.training import packed
from acne_lab.metrics.predictions import read_predictions
from acne_lab.ops import extension

BASE = ("experiment=gan_base", "name=convert_base", "seed=30", *TOY, *TINY_GAN)


@pytest.fixture(scope="module")
def base(toy_runs):
    return train(composed("train", *BASE, f"runs_dir={toy_runs}"))


@pytest.fixture(scope="module")
def pkl(tmp_path_factory):
    """A released file of other widths than the tiny model's, at 16 px."""
    torch.manual_seed(0)
    G, D = Generator(**SMALL_G), Discriminator(**SMALL_D)
    return write(tmp_path_factory.mktemp("released") / "x.pkl", released_content(G, D))


def test_a_run_becomes_one_file(base, toy_runs, tmp_path):
    written = convert("convert_base", str(tmp_path / "new" / "x.safetensors"), runs_dir=str(toy_runs))
    assert written == tmp_path / "new" / "x.safetensors"
    original, copied = read_networks(base.path / NETWORKS_FILE), read_networks(written)
    for name in ("G_ema", "D"):
        for key, tensor in original[name].state_dict().items():
            assert torch.equal(copied[name].state_dict()[key], tensor), key
    given = base.config["model"]["G"]
    arguments = json.loads(written.with_suffix(".json").read_text())["G_ema"]
    assert {key: arguments[key] for key in given if key != "_target_"} == {
        key: value for key, value in given.items() if key != "_target_"
    }


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_released_file_becomes_torchscript(pkl, tmp_path):
    written = convert(str(pkl), str(tmp_path / "x.pt"))
    G_ema = read_networks(pkl)["G_ema"]
    given = inputs(G_ema, 4, 0.6).values()
    with torch.no_grad(), extension.use("reference"):
        assert torch.equal(torch.jit.load(written)(*given), Exported(G_ema)(*given))
    assert [p.name for p in tmp_path.iterdir()] == ["x.pt"]


@pytest.mark.slow
def test_shipped_weights_become_onnx(tmp_path, capsys):
    onnxruntime = pytest.importorskip("onnxruntime")
    written = convert("toy_faces_64", str(tmp_path / "x.onnx"))
    assert "of the largest pixel" in capsys.readouterr().err
    session = onnxruntime.InferenceSession(written, providers=["CPUExecutionProvider"])
    [images] = session.run(None, {"z": torch.randn(2, 128).numpy(), "psi": torch.tensor(0.7).numpy()})
    assert images.shape == (2, 3, 64, 64)


def command(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["convert", *words])
    main()


def test_the_command(pkl, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command(monkeypatch, f"file={pkl}", "to=x.safetensors")
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-1] == str(tmp_path / "x.safetensors")
    assert "G_ema: 16 px, 3 channels, unconditional, 0.0" in printed.err
    for words, message in (
        (("file=x.safetensors",), "error: give file=SOURCE to=TARGET"),
        (("file=x.safetensors", "to=y.pt", "colour=red"), "error: give file=SOURCE to=TARGET"),
        (("file=x.safetensors", "to=y.pt", "overwrite=yes"), "error: give file=SOURCE to=TARGET"),
        (("file=x.safetensors", "to=x.safetensors"), "exists: give another name, or overwrite=true"),
    ):
        with pytest.raises(SystemExit, match=message):
            command(monkeypatch, *words)
    command(monkeypatch, "file=x.safetensors", "to=x.safetensors", "overwrite=true")


def test_a_target_is_overwritten_only_on_demand(pkl, tmp_path):
    target = tmp_path / "x.safetensors"
    (tmp_path / "x.json").write_text("mine")
    with pytest.raises(ValueError, match=r"x\.json exists"):
        convert(str(pkl), str(target))
    assert not target.exists()
    convert(str(pkl), str(target), overwrite=True)
    assert set(read_networks(target)) == {"G", "G_ema", "D"}
    assert "img_resolution" in (tmp_path / "x.json").read_text()


@pytest.mark.parametrize(
    ("file", "to", "message"),
    [
        ("nothing.pkl", "x.pt", r"there is no nothing\.pkl: give a GAN's run"),
        ("nothing", "x.pt", "there is no run nothing"),
        ("toy_faces_64", "x.png", r"\.safetensors, \.pt, \.onnx"),
        (__file__, "x.pt", r"must be a \.safetensors"),
    ],
)
def test_wrong_names(tmp_path, file, to, message):
    with pytest.raises(ValueError, match=message):
        convert(file, str(tmp_path / to), runs_dir=str(tmp_path))
    assert not list(tmp_path.iterdir())


# ---- graders ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def grader(toy_runs):
    words = ("experiment=grader", "name=convert_grader", "seed=30", *TOY, *TINY_GRADER, "num_threads=1")
    return train(composed("train", *words, f"runs_dir={toy_runs}"))


def test_a_grader_becomes_onnx_that_grades_as_the_run_did(grader, toy_runs, tmp_path):
    onnxruntime, onnx = pytest.importorskip("onnxruntime"), pytest.importorskip("onnx")
    written = convert("convert_grader", str(tmp_path / "x.onnx"), runs_dir=str(toy_runs))
    rows = table_of(grader.config).select(split="test")
    session = onnxruntime.InferenceSession(written, providers=["CPUExecutionProvider"])
    given = np.asarray(packed(rows, grader.config))
    probabilities, grade = session.run(["probabilities", "grade"], {"photographs": given})
    tested = read_predictions(grader.path / "predictions.parquet").of("test")
    assert tested.frame["file_name"].tolist() == rows.rows["file_name"].tolist()
    np.testing.assert_allclose(probabilities, tested.probabilities, atol=1e-4)
    assert grade.tolist() == tested.predicted.tolist()
    facts = {entry.key: entry.value for entry in onnx.load(written).metadata_props}
    assert json.loads(facts["classes"]) == list(rows.classes)
    assert facts["lineage"].startswith("learned from ")
    assert "people it had seen: 0.0%" in facts["lineage"]
    assert "not a medical device" in facts["use"]
    assert str(toy_runs) not in str(facts)


def test_a_grader_becomes_nothing_else(grader, tmp_path):
    with pytest.raises(ValueError, match=r"a grader becomes \.onnx, not \.safetensors"):
        convert(str(grader.path), str(tmp_path / "x.safetensors"))


def test_onnx_without_its_packages(grader, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    for file in (str(grader.path), "toy_faces_64"):
        with pytest.raises(ValueError, match=r"needs onnxscript: pip install 'acne-lab\[export\]'"):
            convert(file, str(tmp_path / "x.onnx"))
    assert not list(tmp_path.iterdir())


# ---- init_from ---------------------------------------------------------------------------------


def test_training_starts_from_a_released_file(pkl, toy_runs):
    """Of another resolution, without labels; the run says tensor by tensor what fitted."""
    words = ("model.G.c_dim=4", "model.G.z_dim=8", "model.G.w_dim=12", "model.optimizer.lr=0", f"init_from={pkl}")
    run = train(composed("train", *BASE, "name=from_released", *words, f"runs_dir={toy_runs}"))
    fates = {}
    for section in (run.path / "init_from.txt").read_text().strip().split("\n\n"):
        heading, _, *lines = section.splitlines()
        network = heading.split(":")[0]
        assert re.match(rf"{network}: \d+% of the parameters", heading)
        fates[network] = {line.split()[1]: line.split()[0] for line in lines}
    assert list(fates) == ["G", "G_ema", "D"]
    assert fates["G"] == fates["G_ema"]
    assert fates["G"]["synthesis.b16.conv0.weight"] == "loaded"
    assert fates["G"]["synthesis.b32.conv0.weight"] == "initialised"
    assert fates["G"]["mapping.fc0.weight"] == "partly"
    assert fates["D"]["b4.out.weight"] == "partly"
    assert fates["D"]["b16.fromrgb.weight"] == "unused"  # 4 channels at 32 px are too few to hand an image on
    released, trained = read_networks(pkl), read_networks(run.path / NETWORKS_FILE)
    z = torch.randn(3, 8)
    expected = released["G_ema"].mapping(z)[:, 0]
    torch.testing.assert_close(trained["G_ema"].mapping(z, torch.eye(4)[:3])[:, 0], expected)


def test_a_file_without_a_discriminator_is_refused(pkl, toy_runs, tmp_path):
    torch.save(read_networks(pkl)["G"].state_dict(), tmp_path / "g.pt")
    with pytest.raises(ValueError, match=r"g\.pt holds no discriminator"):
        train(composed("train", *BASE, "name=no_d", f"init_from={tmp_path / 'g.pt'}", f"runs_dir={toy_runs}"))
