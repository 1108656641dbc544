"""Training jobs on the smallest data: results, memory, interruption, bad input."""

import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import timm
import torch
from tiny import TINY_GAN, TINY_GRADER, TOY, composed, tiny_weights

from acne_lab.data.lineage import Lineage
from acne_lab.data.table import ImageTable
from acne_lab.gan.module import StyleGAN2
from acne_lab.gan.weights import NETWORKS_FILE, read_networks
from acne_lab.jobs.generate import generate
from acne_lab.jobs.prepare import prepare
from acne_lab.jobs.train import train
from acne_lab.runs import run_key

BASE = ("experiment=gan_base", *TOY, *TINY_GAN)
GRADER = ("experiment=grader", *TOY, *TINY_GRADER)


def gan(toy_runs, *overrides):
    return train(composed("train", *BASE, f"runs_dir={toy_runs}", *overrides))


@pytest.fixture(scope="module")
def base(toy_runs):
    return gan(toy_runs)


def tensors(run):
    networks = read_networks(run.path / NETWORKS_FILE)
    return {f"{name}.{k}": v for name, network in networks.items() for k, v in network.state_dict().items()}


def test_a_gan_run_is_complete(base):
    table = pd.read_csv(base.path / "metrics.csv")
    assert table["images_seen"].tolist() == [8, 16]
    for column in ("loss/G", "loss/D", "score/real", "score/fake", "ada/p", "speed/s_per_kimg"):
        assert table[column].notna().all()
    for column in (
        "loss/r1",
        "loss/path_length",
    ):  # lazy: in this short run only the first iteration has them
        assert table[column].notna().tolist() == [True, False]
    assert sorted(p.name for p in (base.path / "samples").iterdir()) == [
        "reals.png",
        "tick_0001.png",
        "tick_0002.png",
    ]
    assert base.metrics["images_seen"] == 16
    assert {p.name for p in base.path.iterdir()} >= {
        "config.yaml",
        "environment.json",
        "checkpoints",
        "DONE",
        NETWORKS_FILE,
    }
    assert all(tensor.isfinite().all() for tensor in tensors(base).values())


def test_a_finished_run_is_not_trained_again(base, toy_runs):
    before = (base.path / "metrics.csv").stat().st_mtime_ns
    assert gan(toy_runs).path == base.path
    assert (base.path / "metrics.csv").stat().st_mtime_ns == before


def test_same_seed_same_networks(base, toy_runs, tmp_path):
    prepare(composed("prepare", *TOY, f"runs_dir={tmp_path}"))
    other = gan(tmp_path)
    assert other.key == base.key
    for name, tensor in tensors(base).items():
        assert torch.equal(tensor, tensors(other)[name]), name


def killed_and_repeated(tmp_path, *overrides):
    """kill -9 after the first checkpoint, then the same command again; the run."""
    command = [sys.executable, "-m", "acne_lab.jobs", "train", *overrides, f"runs_dir={tmp_path}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("train/*/checkpoints/last.ckpt")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not list(tmp_path.glob("train/*/DONE")), "it was killed too late to test anything"
    return train(composed("train", *overrides, f"runs_dir={tmp_path}"))


def test_a_killed_gan_ends_where_it_would_have(base, tmp_path):
    """The networks are those of an uninterrupted run, to the bit."""
    run = killed_and_repeated(tmp_path, *BASE, "seed=0")
    assert pd.read_csv(run.path / "metrics.csv")["images_seen"].tolist() == [8, 16]
    for name, tensor in tensors(base).items():
        assert torch.equal(tensor, tensors(run)[name]), name


def test_a_killed_gan_goes_on_with_its_augmentation(toy_runs, tmp_path):
    """p rises by a fifth with every batch; what it was and what is drawn survive the interruption, to the bit."""
    ada = ("augment=ada", "augment/pipe=bgcfnc", "model.ada_target=-2", "model.ada_kimg=0.02", "model.ada_interval=1")
    whole = gan(toy_runs, *ada)
    run = killed_and_repeated(tmp_path, *BASE, *ada, "seed=0")
    for done in (whole, run):
        assert done.metrics["ada_p"] == pytest.approx(0.8)
        assert pd.read_csv(done.path / "metrics.csv")["ada/p"].tolist() == pytest.approx([0.3, 0.7])
    for name, tensor in tensors(whole).items():
        assert torch.equal(tensor, tensors(run)[name]), name


def test_a_run_goes_on_with_the_precision_it_began_with(tmp_path, monkeypatch):
    """On a machine that is fast at 16 bit, and then on one that is not; the run is the same on both."""

    def machine(num_half_res):
        for name in ("generator", "discriminator"):
            monkeypatch.setattr(f"acne_lab.gan.{name}.fast_half_res", lambda: num_half_res)

    def step_until_half_way(self, *batch):
        if self.images_seen == 8:
            raise KeyError("the power")
        step(self, *batch)

    prepare(composed("prepare", *TOY, f"runs_dir={tmp_path}"))
    words = ("model.G.num_half_res=null", "seed=13")
    machine(2)
    step = StyleGAN2.training_step
    monkeypatch.setattr(StyleGAN2, "training_step", step_until_half_way)
    with pytest.raises(KeyError, match="the power"):
        gan(tmp_path, *words)
    monkeypatch.setattr(StyleGAN2, "training_step", step)
    machine(0)
    run = gan(tmp_path, *words)
    assert len(list(tmp_path.glob("train/gan_base-*"))) == 1
    assert run.metrics["num_half_res"] == read_networks(run.path / NETWORKS_FILE)["D"].init_kwargs["num_half_res"] == 2
    given = (composed("train", *BASE, *words, f"model.G.num_half_res={number}") for number in (2, "null"))
    assert len({run_key(config) for config in given}) == 2  # what is asked for is in the key


def test_fine_tuning_starts_from_the_weights(base, toy_runs):
    run = train(
        composed(
            "train",
            "experiment=gan_severity",
            *TOY,
            *TINY_GAN,
            "stage.severity=severe",
            f"init_from={base.path}",
            "model.optimizer.lr=0",
            f"runs_dir={toy_runs}",
        )
    )
    assert run.metrics["severity"] == "severe"
    assert run.metrics["num_training_images"] < 20
    trained, started = tensors(run), tensors(base)
    for name in started:
        if "w_avg" not in name:
            torch.testing.assert_close(trained[name], started[name], msg=name)
    assert "100% of the parameters" in (run.path / "init_from.txt").read_text()


def test_fine_tuning_joins_classes_by_name(toy_runs, tmp_path):
    """The run that it starts from knew two of the four classes, the milder one last."""
    (tmp_path / "two-0123456789").mkdir()
    weights = tiny_weights(tmp_path / "two-0123456789" / NETWORKS_FILE, c_dim=2)
    (weights.parent / "metrics.json").write_text(json.dumps({"classes": ["very_severe", "mild"]}))
    (weights.parent / "DONE").touch()
    run = gan(toy_runs, "name=by_name", "model.G.c_dim=4", "model.optimizer.lr=0", f"init_from={weights}")
    old, new = (read_networks(path)["G_ema"].mapping.embed.weight for path in (weights, run.path / NETWORKS_FILE))
    torch.testing.assert_close(new[:, [3, 0]], old * math.sqrt(2))
    copy = weights.rename(tmp_path / "copy.safetensors")  # of which nobody knows the classes' names
    run = gan(toy_runs, "name=by_position", "model.G.c_dim=4", "model.optimizer.lr=0", f"init_from={copy}")
    assert "columns by position" in (run.path / "init_from.txt").read_text()


def test_weights_that_do_not_fit_are_refused(base, toy_runs):
    with pytest.raises(ValueError, match="fit the weights given as init_from"):
        gan(toy_runs, f"init_from={base.path}", "model.G.channel_base=1024", "model.G.channel_max=64")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("stage.severity=sever",), "not one of the data's classes: mild, moderate, severe, very_severe"),
        (("init_from=nothing",), "there is no run nothing"),
        (("callbacks=best",), "every_ticks=4, but there are 2 ticks"),
        (("callbacks.snapshots.every_ticks=0",), "every_ticks must be at least 1"),
        (("callbacks.sample_grid.psi=7",), "psi must be from -1 to 2"),
        (("stage.where={camera: phone}",), "has no column camera; it has file_name, severity"),
        (("stage.where={skin_tone: 9}",), "no training images of skin_tone=9"),
        (("model.G.c_dim=3",), "model.G.c_dim=3, but the data has the classes mild"),
        (("stage.batch_size=6", "stage.tick_images=12", "stage.num_images=12"), "minibatch-std groups"),
        (("+model.G.img_channels=1", "+model.D.img_channels=1"), r"leave model\.G\.img_channels=1 .* out"),
        (("model.G.img_resolution=16", "model.D.img_resolution=16"), r"32 px, the networks of 16 px: set data\.resol"),
    ],
)
def test_bad_input_to_the_gan(toy_runs, overrides, message):
    with pytest.raises(ValueError, match=message):
        gan(toy_runs, *overrides)


def test_weights_of_gray_images_are_refused(toy_runs, tmp_path):
    gray = tiny_weights(tmp_path / "gray.safetensors", img_channels=1)
    with pytest.raises(ValueError, match="images with 1 channels, the training images have 3"):
        gan(toy_runs, f"init_from={gray}")


def test_a_killed_grader_ends_where_it_would_have(toy_runs, tmp_path):
    """With dropout, so that it matters which random numbers the second epoch draws."""
    overrides = (*GRADER, "model.drop_rate=0.5", "num_threads=1", "trainer.max_epochs=4")
    whole = train(composed("train", *overrides, f"runs_dir={toy_runs}"))
    run = killed_and_repeated(tmp_path, *overrides)
    assert run.path.name == whole.path.name
    for name in ("predictions.parquet", "metrics.csv"):
        assert (run.path / name).read_bytes() == (whole.path / name).read_bytes(), name


def test_a_grader_is_not_tested_on_its_training_images(toy_runs, tmp_path):
    table = ImageTable.read(prepare(composed("prepare", *TOY, f"runs_dir={toy_runs}")).path)
    rows = table.rows.assign(split=table.rows["split"].replace({"train": "test", "test": "train"}))
    other = ImageTable(root=tmp_path, rows=rows, classes=table.classes, report={}, boxes=None)
    other.write()
    with pytest.raises(ValueError, match=r"this grader has seen the people on \d+ of \d+ test images(?s:.*)images/"):
        train(composed("train", *GRADER, f"runs_dir={toy_runs}", f"test={tmp_path}"))


# ---- lineage


def test_a_gan_lists_the_training_photographs_and_what_its_ancestors_saw(base, toy_runs):
    table = ImageTable.read(prepare(composed("prepare", *TOY, f"runs_dir={toy_runs}")).path)
    lineage = Lineage.read(base.path)
    assert lineage.known
    assert lineage.rows["sha256"].tolist() == Lineage.of(table.select(split="train")).rows["sha256"].tolist()
    assert set(lineage.rows["population"]) == {"toy-0"}
    words = ("experiment=gan_severity", "stage.severity=severe", *TOY, *TINY_GAN, f"runs_dir={toy_runs}")
    severe = train(composed("train", *words, f"init_from={base.path}"))
    assert set(Lineage.read(severe.path).rows["sha256"]) == set(lineage.rows["sha256"])


def test_a_gan_that_starts_from_one_that_knows_the_test_people_is_refused_before_it_trains(base, toy_runs, tmp_path):
    """And one of a torn table: days later a grader would refuse its images."""
    table = ImageTable.read(prepare(composed("prepare", *TOY, f"runs_dir={toy_runs}")).path)
    swapped = table.rows.assign(split=table.rows["split"].replace({"train": "test", "test": "train"}))
    words = ("experiment=gan_base", "data=table", "data.resolution=32", *TINY_GAN, f"runs_dir={tmp_path}")
    other = as_table(tmp_path / "swapped", swapped, table)
    with pytest.raises(ValueError, match=r"this GAN, which starts from .*, has seen the people on 49 of 59 validation"):
        train(composed("train", *words, f"data.root={other.root}", f"init_from={base.path}"))
    torn = as_table(tmp_path / "torn", table.rows.assign(split=["train", "test"] * 40), table)
    with pytest.raises(ValueError, match="in more than one of train, val and test"):
        train(composed("train", *words, f"data.root={torn.root}"))
    assert not list(tmp_path.glob("train/*"))


def test_a_finished_run_without_a_lineage_gets_it_by_repeating_its_command(toy_runs):
    run = gan(toy_runs, "seed=11")
    before = (run.path / "lineage.csv").read_text()
    (run.path / "lineage.csv").unlink()
    generated = generate(composed("generate", f"run={run.path}", "num_images=4", f"runs_dir={toy_runs}"))
    assert not Lineage.read(generated.path / "table").known
    assert gan(toy_runs, "seed=11").path == run.path
    assert (run.path / "lineage.csv").read_text() == before
    generate(composed("generate", f"run={run.path}", "num_images=4", f"runs_dir={toy_runs}"))
    assert Lineage.read(generated.path / "table").known


def test_weights_from_elsewhere_descend_from_nobody_knows_whom(toy_runs, tmp_path):
    weights = tiny_weights(tmp_path / "elsewhere.safetensors")
    generated = generate(composed("generate", f"run={weights}", "num_images=4", f"runs_dir={tmp_path}"))
    lineage = Lineage.read(generated.path / "table")
    assert (len(lineage), lineage.known) == (0, False)


@pytest.fixture(scope="module")
def generated(base, toy_runs):
    """A labelled set that one unconditional GAN has made: of every severity, for the lineage alone."""
    table = ImageTable.read(
        generate(composed("generate", f"run={base.path}", "num_images=40", f"runs_dir={toy_runs}")).path
    )
    rows = table.rows.assign(severity=[table.classes[i % 4] for i in range(len(table))])
    return rows, table


def as_table(root, rows, like, lineage=None, **report):
    table = ImageTable(root=root, rows=rows, classes=like.classes, report=report)
    root.mkdir(exist_ok=True)
    (root / "images").symlink_to(like.root / "images")
    table.write()
    if lineage:
        lineage.write(root)
    return table


def test_a_grader_of_generated_images_has_their_ancestors(generated, toy_runs, tmp_path):
    rows, table = generated
    made = as_table(tmp_path / "made", rows, table, Lineage.of(table))
    toy = prepare(composed("prepare", *TOY, f"runs_dir={toy_runs}")).path
    words = ("experiment=grader", "data=table", f"data.root={made.root}", "data.resolution=32", *TINY_GRADER)
    run = train(composed("train", *words, f"test={toy}", f"runs_dir={toy_runs}"))
    assert Lineage.read(run.path).rows.equals(Lineage.of(table).rows)
    about = run.metrics["lineage"]
    assert about == {"known": True, "num_photographs": len(Lineage.of(table)), "protocol": None, "leaked_share": 0}

    noted = run.metrics  # a finished run says what is known now
    run.write_metrics({**noted, "lineage": {**about, "known": False}})
    Lineage(known=False).write(run.path)
    assert train(composed("train", *words, f"test={toy}", f"runs_dir={toy_runs}")).metrics == noted
    assert Lineage.read(run.path).known

    other_split = ImageTable.read(toy)
    swap = other_split.rows.assign(split=other_split.rows["split"].replace({"train": "test", "test": "train"}))
    swapped = as_table(tmp_path / "swapped", swap, other_split)
    with pytest.raises(ValueError, match="train it, and all it descends from, on the training rows"):
        train(composed("train", *words, f"test={swapped.root}", f"runs_dir={toy_runs}"))


def test_a_grader_of_images_that_remember_the_validation_people_is_refused(generated, toy_runs, tmp_path):
    rows, _ = generated
    toy = ImageTable.read(prepare(composed("prepare", *TOY, f"runs_dir={toy_runs}")).path)
    photographs = toy.rows[toy.rows["split"] != "train"].assign(
        file_name=lambda toys: "images/toy/" + toys["file_name"]
    )
    rows = pd.concat([rows.assign(split="train"), photographs], ignore_index=True)
    words = ("experiment=grader", "data=table", "data.resolution=32", *TINY_GRADER, f"runs_dir={tmp_path}")
    remembers = as_table(tmp_path / "val", rows, toy, Lineage.of(toy.select(split="val")))
    with pytest.raises(
        ValueError, match=r"what made the generated(?s:.*) validation images(?s:.*)images/toy/.*\(val\)"
    ):
        train(composed("train", *words, f"data.root={remembers.root}"))
    assert not list(tmp_path.glob("train/*"))


def test_unknown_parents_are_refused_or_noted(generated, toy_runs, tmp_path):
    rows, table = generated
    made = as_table(tmp_path / "made", rows, table)
    toy = prepare(composed("prepare", *TOY, f"runs_dir={toy_runs}")).path
    words = ("experiment=grader", "data=table", f"data.root={made.root}", "data.resolution=32", *TINY_GRADER)
    words = (*words, f"test={toy}", f"runs_dir={tmp_path}")
    with pytest.raises(ValueError, match=r"repeat the command of that run(?s:.*)allow_unknown_parents=true"):
        train(composed("train", *words))
    run = train(composed("train", *words, "allow_unknown_parents=true"))
    assert run.metrics["lineage"]["known"] is False
    with pytest.raises(ValueError, match="allow_unknown_parents=true"):  # done or not
        train(composed("train", *words))


def test_where_nobody_told_who_is_who_no_leak_is_claimed(toy_runs, tmp_path):
    table = ImageTable.read(prepare(composed("prepare", *TOY, f"runs_dir={toy_runs}")).path)
    rows = table.rows.assign(subject=table.rows["file_name"])
    files = as_table(tmp_path / "files", rows, table, people_known=False)
    words = ("experiment=grader", "data=table", f"data.root={files.root}", "data.resolution=32", *TINY_GRADER)
    run = train(composed("train", *words, f"runs_dir={tmp_path}"))
    assert run.metrics["lineage"]["leaked_share"] is None


def backbone_weights(path, seed=0):
    torch.manual_seed(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(timm.create_model("test_resnet").state_dict(), path)
    return path


def test_pretrained_weights_of_nobody_knows_whom_are_refused_or_noted(toy_runs, tmp_path):
    weights = backbone_weights(tmp_path / "weights.pth")
    words = (*GRADER, "data.source.seed=3", f"runs_dir={tmp_path}", f"model.pretrained={weights}")
    with pytest.raises(ValueError, match=r"model.pretrained=(?s:.*)photographs are not listed(?s:.*)allow_unknown"):
        train(composed("train", *words))
    run = train(composed("train", *words, "allow_unknown_parents=true"))
    assert run.metrics["lineage"]["known"] is False
    assert not Lineage.read(run.path).known
    backbone_weights(weights, seed=1)  # other weights under the same name are another run
    assert train(composed("train", *words, "allow_unknown_parents=true")).path != run.path


@pytest.mark.parametrize("split", ["train", "test"])
def test_pretrained_weights_of_a_run_have_its_lineage(toy_runs, tmp_path, split):
    table = ImageTable.read(prepare(composed("prepare", *TOY, f"runs_dir={toy_runs}")).path)
    origin = tmp_path / "origin-0123456789"
    weights = backbone_weights(origin / "checkpoints" / "backbone.pth")
    (origin / "DONE").write_text("{}")
    Lineage.of(table.select(split=split)).write(origin)
    words = (*GRADER, f"runs_dir={toy_runs}", f"model.pretrained={weights}")
    if split == "test":
        with pytest.raises(ValueError, match=r"model.pretrained=(?s:.*)has seen the people on 21 of 21 test images"):
            train(composed("train", *words))
    else:
        assert train(composed("train", *words)).metrics["lineage"]["known"]


def test_published_folds_are_tested_and_their_leak_is_measured(toy_runs, tmp_path):
    table = ImageTable.read(prepare(composed("prepare", *TOY, f"runs_dir={toy_runs}")).path)
    rows = table.rows.copy()
    train_people = rows.loc[rows["split"] == "train", "subject"]
    person = train_people[train_people.duplicated()].iloc[0]
    of_person = rows.index[rows["subject"] == person]
    rows.loc[of_person[0], "split"] = "test"
    num_test = (rows["split"] == "test").sum()
    words = ("experiment=grader", "data=table", "data.resolution=32", *TINY_GRADER, f"runs_dir={tmp_path}")
    torn = as_table(tmp_path / "torn", rows, table)
    with pytest.raises(ValueError, match=rf"{person}: images/(?s:.*)split by subject"):
        train(composed("train", *words, f"data.root={torn.root}"))
    official = as_table(tmp_path / "official", rows, table, protocol="official")
    run = train(composed("train", *words, f"data.root={official.root}"))
    assert run.metrics["lineage"]["leaked_share"] == pytest.approx(1 / num_test)
    assert run.metrics["lineage"]["protocol"] == "official"


def test_a_grader_takes_no_weights_to_start_from(toy_runs):
    with pytest.raises(ValueError, match="leave init_from out"):
        train(composed("train", *GRADER, f"runs_dir={toy_runs}", "init_from=toy_faces_64"))


def test_an_unknown_backbone_is_said_before_there_are_images(tmp_path):
    words = ("experiment=grader", "data=table", f"data.root={tmp_path / 'none'}", "model.backbone=resnet5")
    with pytest.raises(ValueError, match="no model 'resnet5'; did you mean resnet50"):
        train(composed("train", *words, f"runs_dir={tmp_path}"))


@pytest.mark.parametrize("job", ["gan", "grader", "generate"])
def test_wandb_offline(toy_runs, base, job):
    words = ("logger=wandb", "logger.mode=offline", "seed=7", f"runs_dir={toy_runs}")
    if job == "generate":
        run = generate(composed("generate", f"run={base.path}", "num_images=4", *words))
    else:
        run = train(composed("train", *{"gan": BASE, "grader": GRADER}[job], *words))
    assert run.done
    [folder] = (run.path / "wandb").glob("offline-run-*")
    assert list(folder.glob("*.wandb"))
    media = {path.name.split("_")[0] for path in (folder / "files" / "media").rglob("*") if path.is_file()}
    assert media == {"gan": {"reals", "samples"}, "grader": {"confusion"}, "generate": {"samples"}}[job]
    if job != "grader":
        assert sent_pictures(run) == media  # all drawn, by a program or by a GAN that has seen nothing else


def sent_pictures(run):
    """Names of the pictures in the folder that `wandb sync` would send."""
    return {path.name.split("_")[0] for path in (run.path / "wandb").rglob("*.png")}


def test_what_may_show_a_person_is_not_sent_to_a_logger(toy_runs, tmp_path):
    """Neither photographs nor what a GAN that has seen them generates, itself or through weights; figures are."""
    table = ImageTable.read(prepare(composed("prepare", *TOY, f"runs_dir={toy_runs}")).path)
    real = ImageTable(
        root=tmp_path / "real", rows=table.rows.assign(source="real"), classes=table.classes, report={}, boxes=None
    )
    real.write()
    (real.root / "images").symlink_to(table.root / "images")
    data = (f"data={real.root}", "data.resolution=32")
    words = (*TINY_GAN, "logger=wandb", "logger.mode=offline", f"runs_dir={tmp_path}")
    run = train(composed("train", "experiment=gan_base", *words, *data))
    assert (run.path / "samples" / "reals.png").exists()
    assert sent_pictures(run) == set()
    assert not run.metrics["only_drawn"]

    prepare(composed("prepare", *TOY, f"runs_dir={tmp_path}"))
    tuned = train(composed("train", "experiment=gan_base", *TOY, *words, f"init_from={run.path}"))
    assert sent_pictures(tuned) == set()
    consent = ("logger.send_generated=true", "seed=1")
    assert sent_pictures(train(composed("train", "experiment=gan_base", *words, *data, *consent))) == {"samples"}

    log = ("logger=wandb", "logger.mode=offline", f"runs_dir={tmp_path}", f"run={tuned.path}")
    table, sheet = ("num_images=4",), ("mode=seeds", "mode.seeds=0-3")
    for kind, name in ((table, "samples"), (sheet, "sheet")):
        made = generate(composed("generate", *kind, *log))
        assert list((made.path / "wandb").glob("offline-run-*"))
        assert sent_pictures(made) == set()
        assert sent_pictures(generate(composed("generate", *kind, *log, *consent))) == {name}


def test_several_devices_need_the_trainer_for_them(toy_runs):
    with pytest.raises(ValueError, match="trainer=ddp"):
        gan(toy_runs, "trainer.devices=2", "trainer.accelerator=cpu", "seed=5")
    with pytest.raises(ValueError, match="several devices train a GAN"):
        train(
            composed("train", *GRADER, "trainer.devices=2", "trainer.accelerator=cpu", "seed=5", f"runs_dir={toy_runs}")
        )


def test_snapshots_are_kept_and_dropped(toy_runs):
    ticks = ("stage.num_images=40", "callbacks.snapshots.every_ticks=1", "callbacks.snapshots.keep_last=2", "seed=8")
    run = gan(toy_runs, *ticks)
    assert {path.name for path in (run.path / "checkpoints").iterdir()} == {
        "last.ckpt", "images_seen=32.ckpt", "images_seen=40.ckpt",
    }  # fmt: skip


def test_the_tick_nearest_to_the_training_images_is_kept(toy_runs):
    """It is evaluated every second tick, on the training rows, and training stops when it gets no better."""
    words = ("callbacks=best", "callbacks.evaluation={every_ticks: 2, num_images: 20, patience: 2}")
    run = gan(toy_runs, *words, "stage.num_images=400", "model.optimizer.lr=0.05", "seed=11")
    table = pd.read_csv(run.path / "metrics.csv").set_index("images_seen")["distance/efficientnet_lite0"]
    assert table.notna().tolist() == [number % 2 == 1 for number in range(len(table))]
    assert table.idxmin() == run.metrics["images_seen"]
    evaluated = table.dropna()
    if len(table) < 50:  # it stopped early: two evaluations after the best were no better
        assert len(evaluated) - evaluated.tolist().index(evaluated.min()) == 3
    best = torch.load(run.path / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    for name, tensor in tensors(run).items():
        assert torch.equal(tensor, best[name].float()), name


def test_a_diverged_run_leaves_its_last_good_tick(toy_runs):
    guard = "callbacks.divergence_guard={max_score: 1000, min_diversity: 100, patience: 1}"  # the second tick is poor
    with pytest.raises(ValueError, match="training has diverged") as error:
        gan(toy_runs, guard, "stage.num_images=32", "seed=12")
    path = str(error.value).rsplit(": ", 1)[1]
    networks = read_networks(Path(path))
    kept = torch.load(Path(path).parent / "checkpoints" / "last.ckpt", weights_only=True)
    assert kept["gan"]["images_seen"] == 8
    for name, tensor in networks["G_ema"].state_dict().items():
        assert torch.equal(tensor, kept["state_dict"][f"G_ema.{name}"].float()), name


def test_a_streak_over_two_ticks_is_in_no_checkpoint(toy_runs, monkeypatch):
    """It begins with the second of a tick's two iterations, and ends training with the tick behind it."""

    def poison(model, batch, batch_idx):
        if model.images_seen == 12:
            model.D.b4.out.weight.data.fill_(torch.nan)

    monkeypatch.setattr(StyleGAN2, "on_train_batch_start", poison)
    words = ("callbacks.divergence_guard=null", "callbacks.snapshots.every_ticks=1", "stage.num_images=32", "seed=14")
    with pytest.raises(ValueError, match="last 3 iterations were not finite") as error:
        gan(toy_runs, "model.max_nonfinite=3", *words)
    folder = Path(str(error.value).rsplit(": ", 1)[1]).parent
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"last.ckpt", "images_seen=8.ckpt"}
    assert torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["gan"]["images_seen"] == 8
    D = read_networks(folder / "last_good_tick.safetensors")["D"]
    assert all(tensor.isfinite().all() for tensor in D.state_dict().values())


def test_a_full_disk_leaves_the_last_checkpoint_intact(tmp_path):
    """The limit on a file's size stands in for the disk: larger than all files but the second tick's checkpoint."""
    config = (*BASE, f"runs_dir={tmp_path}", "callbacks.snapshots=null")
    script = f"""
import resource, sys
from pathlib import Path
import acne_lab.callbacks as callbacks
save = callbacks.torch.save
def save_on_a_full_disk(checkpoint, path):
    if checkpoint["gan"]["images_seen"] == 16:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, -1))
    save(checkpoint, path)
callbacks.torch.save = save_on_a_full_disk
sys.argv = ["acne-lab", "train", *{config!r}]
from acne_lab.jobs.__main__ import main
main()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr[-2000:]
    assert "the checkpoint before it is intact" in done.stderr
    [path] = tmp_path.glob("train/*/checkpoints")
    assert [file.name for file in path.iterdir()] == ["last.ckpt"]
    assert torch.load(path / "last.ckpt", weights_only=True)["gan"]["images_seen"] == 8


def test_without_sample_grids(toy_runs):
    run = gan(toy_runs, "callbacks.sample_grid=null", "seed=6")
    assert not (run.path / "samples").exists()


def test_a_conditional_gan_needs_labels(toy_runs, tmp_path):
    table = ImageTable.read(prepare(composed("prepare", *TOY, f"runs_dir={toy_runs}")).path)
    rows = table.rows.assign(severity="")
    ImageTable(root=tmp_path / "bare", rows=rows, classes=table.classes, report={}, boxes=None).write()
    words = ("experiment=gan_base", *TINY_GAN, f"data={tmp_path / 'bare'}", "model.G.c_dim=4")
    with pytest.raises(ValueError, match="images without a severity"):
        train(composed("train", *words, f"runs_dir={tmp_path}"))
