"""Balanced tables: the right images, by whatever process, interruption or number of workers."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from fake_editor import DotEditor
from PIL import Image
from tiny import TINY_GAN, TINY_GRADER, TOY, composed

from acne_lab.data.lineage import Lineage
from acne_lab.data.table import ImageTable
from acne_lab.jobs.balance import added_rows, balance, dealt_anew, make_rows
from acne_lab.jobs.edit_photo import Task, edit_photo
from acne_lab.jobs.prepare import prepare
from acne_lab.jobs.study import expand, in_order
from acne_lab.jobs.train import train
from acne_lab.runs import Run, find_table

TESTS = Path(__file__).parent.parent
DOTS = {"name": "dots", "bank": False, "refiner": None, "gans": None, "editor": {"_target_": "fake_editor.DotEditor"}}
TARGETS = ("balance.targets={severe: 26, very_severe: 27}",)  # of 20: 6 and 7 edits
NUM_EDITS = 13


@pytest.fixture
def table(toy_runs):
    return ImageTable.read(prepare(composed("prepare", *TOY, f"runs_dir={toy_runs}")).path)


@pytest.fixture
def fill(table, tmp_path):
    """fill(words..., **options of the fake editor): runs `acne-lab balance` with it in one process."""

    def run(*words, runs_dir=tmp_path / "runs", **options):
        words = (f"table='{table.root}'", *TARGETS, "num_workers=1", f"runs_dir={runs_dir}", *words)
        return balance(composed("balance", *words) | {"edit": DOTS | {"editor": DOTS["editor"] | options}})

    return run


def content(run):
    """The bytes of every file of the run's table, and of its list of skipped edits."""
    files = [p for p in (run.path / "table").rglob("*") if p.is_file()] + [run.path / "skipped.csv"]
    return {p.relative_to(run.path).as_posix(): p.read_bytes() for p in files}


# ---- edits ----------------------------------------------------------------------------------------------------


def test_edits_of_training_photographs(fill, table, capsys):
    run = fill()
    assert "severe           20      6     26" in capsys.readouterr().out
    added = ImageTable.read(find_table(run.path, run.path))
    assert added.classes == table.classes
    assert added.rows["severity"].value_counts().to_dict() == {"very_severe": 7, "severe": 6}
    assert set(added.rows["split"]) == {"train"}
    assert set(added.rows["source"]) == {"edited"}
    assert Path(run.config["table"]) == table.root.resolve()
    parents = table.rows.set_index("file_name").loc[added.rows["parent"]]
    assert (parents["split"] == "train").all()
    assert added.rows["subject"].tolist() == parents["subject"].tolist()
    assert added.rows["lesions_before"].tolist() == parents["lesions"].tolist()
    assert (added.rows["lesions"] == added.rows["lesions_before"] + added.rows["lesions_added"]).all()
    for row in added.rows.itertuples():
        low, high = {"severe": (21, 50), "very_severe": (51, 99)}[row.severity]
        assert low <= row.lesions <= high
        folder, name = row.file_name.removeprefix("images/").split("/")
        assert folder == {"severe": "levle2_generated", "very_severe": "levle3_generated"}[row.severity]
        assert not name.startswith("levle")
        assert Path(row.parent).stem not in row.file_name
        boxes = added.boxes[added.boxes["file_name"] == row.file_name]
        own = table.boxes[table.boxes["file_name"] == row.parent]
        assert len(boxes) == row.lesions
        assert boxes.iloc[: len(own), 1:].to_numpy().tolist() == own.iloc[:, 1:].to_numpy().tolist()
        edited = np.asarray(Image.open(added.root / row.file_name), dtype=int)
        photo = np.asarray(Image.open(table.root / row.parent), dtype=int)
        mask = np.asarray(Image.open(added.root / row.mask)) > 0
        assert 9 <= mask.sum() < mask.size
        assert np.abs(edited - photo)[mask].mean() > 30
        assert not Image.open(added.root / row.file_name).getexif()
    lineage = Lineage.read(added.root)
    assert lineage.known
    assert set(lineage.rows["sha256"]) == set(parents["sha256"])
    assert set(lineage.rows["population"]) == {"toy-0"}
    assert run.metrics["counts"] == {"mild": 0, "moderate": 0, "severe": 6, "very_severe": 7}


def test_a_repetition_reuses(fill):
    first = fill()
    files = {p: p.stat().st_mtime_ns for p in first.path.rglob("*")}
    again = fill("num_workers=2", "balance.only=true", "balance.oversample=false")  # nothing that changes the images
    assert {p: p.stat().st_mtime_ns for p in again.path.rglob("*")} == files
    others = [fill(word) for word in ("seed=1", "balance.targets={severe: 25}", "balance.sources=lower_or_same")]
    others.append(fill(seconds=0.001))
    assert len({first.key, *(other.key for other in others)}) == 5


def test_a_dry_run_prints_only(fill, capsys, tmp_path):
    assert fill("dry_run=true") is None
    out = capsys.readouterr().out
    assert "severe           20      6     26" in out
    assert "13 edits of 13 photographs of 13 people" in out
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("balance=oversample",), "adds no images"),
        (("balance.targets={severe: 300}",), r"balance\.max_per_source="),
        (("+balance.targets={bad: 300}",), "names bad, but the classes are mild"),
        (("balance.ratio=1",), "exactly one of"),
        (("layout=coco",), "layout one of table, acne04"),
        (("num_workers=0",), "at least 1"),
    ],
)
def test_impossible_plans_leave_nothing(fill, words, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        fill(*words)
    assert not list((tmp_path / "runs").glob("balance/*-*"))


def test_spares_take_the_place_of_skipped_edits(fill):
    run = fill(skips=3)
    rows = ImageTable.read(run.path).rows
    assert rows["severity"].value_counts().to_dict() == {"very_severe": 7, "severe": 6}
    assert (rows["seed"] % 3 != 0).all()
    skipped = pd.read_csv(run.path / "skipped.csv")
    assert len(skipped) > 2
    assert set(skipped["reason"]) == {"no skin found"}
    assert (skipped["seed"] % 3 == 0).all()
    assert run.metrics["num_skipped"] == len(skipped)
    assert content(fill("num_workers=2", skips=3, runs_dir=run.path / "two")) == content(run)


def test_no_spares_left(fill, tmp_path):
    with pytest.raises(ValueError, match=r"only 0 of 7 very_severe, 0 of 6 severe edits.*no skin found \(\d+\)"):
        fill(skips=1)
    (journal,) = (tmp_path / "runs").glob("balance/*/journal.jsonl")  # what was tried is kept, for a repetition
    tried = journal.read_text()
    with pytest.raises(ValueError, match="there are no spares left"):
        fill(skips=1)
    assert journal.read_text() == tried


def test_an_edit_that_leaves_its_band_is_an_error(fill):
    with pytest.raises(AssertionError, match="that is not severe"):
        fill("balance.targets={very_severe: null}", off_by=40)


def test_the_threads_of_what_follows_are_its_own(fill, monkeypatch):
    """Edits in this process run on one thread; a training that a study begins next does not."""
    during, before = [], torch.get_num_threads()
    call = DotEditor.__call__
    monkeypatch.setattr(DotEditor, "__call__", lambda *a, **k: during.append(torch.get_num_threads()) or call(*a, **k))
    try:
        torch.set_num_threads(3)
        fill()
        assert set(during) == {1}
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_edits_that_do_not_count_their_lesions(fill):
    added = ImageTable.read(fill(uncounted=True).path)
    assert added.rows["lesions"].isna().all()
    assert added.rows["lesions_added"].isna().all()
    assert added.boxes.empty


# ---- interruptions ------------------------------------------------------------------------------------------------


@pytest.fixture
def start(table, tmp_path):
    """start(words..., **environment): the same command as a process of its own."""

    def run(*words, runs_dir, **environment):
        environment = os.environ | environment | {"PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])}
        words = (f"table='{table.root}'", *TARGETS, "edit=dots", "+edit.editor.skips=5", f"runs_dir={runs_dir}", *words)
        words = (sys.executable, "-m", "acne_lab.jobs", "balance", *words, "--config-dir", str(TESTS / "conf"))
        return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)

    return run


@pytest.mark.parametrize(
    ("num_workers", "victim", "dies_at"), [(1, "self", 3), pytest.param(2, "parent", 5, marks=pytest.mark.slow)]
)
def test_killed_and_repeated(fill, start, tmp_path, num_workers, victim, dies_at):
    """kill -9 amid the edits; the same command then ends with the same bytes and makes no edit twice."""
    runs_dir = tmp_path / "killed"
    process = start(f"num_workers={num_workers}", runs_dir=runs_dir, DOTS_DIE_AT=str(dies_at), DOTS_KILL=victim)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    (folder,) = (runs_dir / "balance").glob("acnedit-*")
    assert not (folder / "DONE").exists()
    journal = folder / "journal.jsonl"
    tried = journal.read_text().splitlines()
    assert len(tried) >= 3
    journal.write_text("\n".join([*tried, '{"candidate": 9, "sha']))  # as if it had died in the middle of a line
    half = folder / "table" / "images" / "levle2_generated" / ".1-x.png"
    half.write_bytes(b"half")
    names = [Path(image).name for image in (folder / "table" / "images").rglob("*.png") if image != half]

    whole = fill(skips=5, runs_dir=tmp_path / "whole")
    done = {p: p.stat().st_mtime_ns for p in folder.rglob("*.png") if p.name in names and journaled(p, tried)}
    resumed = fill(skips=5, runs_dir=runs_dir)
    assert resumed.path.name == whole.path.name == folder.name
    assert content(resumed) == content(whole)
    assert len(done) >= 2
    assert {p: p.stat().st_mtime_ns for p in done} == done
    assert journal.read_text().splitlines()[: len(tried)] == tried


def journaled(path, lines):
    return any(json.loads(line).get("sha256") == hashlib.sha256(path.read_bytes()).hexdigest() for line in lines)


def test_two_processes_make_one_run(fill, start, tmp_path):
    both = [start("+edit.editor.seconds=0.2", "num_workers=1", runs_dir=tmp_path / "runs") for _ in range(2)]
    ends = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    (folder,) = {out.splitlines()[-1] for out, _ in ends}
    assert sum("another process works on balance" in errors for _, errors in ends) == 1
    assert sum("severity" in out for out, _ in ends) == 1  # the plan is printed by the one that works
    candidates = [json.loads(line)["candidate"] for line in (Path(folder) / "journal.jsonl").read_text().splitlines()]
    assert len(candidates) == len(set(candidates)) >= NUM_EDITS
    assert content(Run(Path(folder))).keys() == content(fill(skips=5, seconds=0.2)).keys()


def test_a_worker_that_is_killed(fill, monkeypatch):
    monkeypatch.setenv("DOTS_DIE_AT", "2")
    monkeypatch.setenv("DOTS_KILL", "self")
    with pytest.raises(ChildProcessError, match=r"ended from outside.*num_workers=1"):
        fill("num_workers=2")


def test_a_full_disk(table, tmp_path, monkeypatch):
    def fail(image, source, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("acne_lab.jobs.edit_photo.save_like", fail)
    photo = table.root / table.rows["file_name"][0]
    files = {"image": tmp_path / "a.jpg", "mask": tmp_path / "a.png"}
    task = Task(candidate=0, photo=photo, boxes=None, num_added=1, severity="mild", seed=1, **files)
    with pytest.raises(OSError, match=r"a\.jpg could not be written.*make room and repeat"):
        edit_photo(DotEditor(), task)
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".jpg"]


# ---- other kinds ----------------------------------------------------------------------------------------------------


@pytest.fixture
def severe_gan(toy_runs):
    words = ("experiment=gan_severity", "init_from=null", *TOY, *TINY_GAN, f"runs_dir={toy_runs}")
    return train(composed("train", *words, "stage.severity=severe"))


def test_generated(severe_gan, table, tmp_path):
    gan = severe_gan
    given = (
        f"table='{table.root}'",
        "balance=generated",
        f"balance.run={{severe: '{gan.path}'}}",
        f"runs_dir={tmp_path}",
    )
    run = balance(composed("balance", *given, "balance.targets={severe: 25, very_severe: null}", "num_workers=1"))
    added = ImageTable.read(run.path)
    assert added.rows["severity"].tolist() == ["severe"] * 5
    assert set(added.rows["source"]) == {"generated"}
    assert set(added.rows["split"]) == {"train"}
    assert set(added.rows["parent"]) == {f"train/{gan.path.name}"}
    assert all(re.fullmatch(r"images/levle2_generated/[0-9a-f]{12}\.png", name) for name in added.rows["file_name"])
    assert {Image.open(path).size for path in added.paths} == {(32, 32)}
    assert set(Lineage.read(added.root).rows["sha256"]) == set(
        table.select(split="train", severity="severe").rows["sha256"]
    )
    with pytest.raises(ValueError, match="wants more very_severe images, and nothing may be made into them"):
        balance(composed("balance", *given))


def test_no_lists_of_images_without_counts(severe_gan, fill, table, tmp_path):
    """layout=acne04 is refused before anything is drawn, and what is drawn stays if its layout fails."""
    runs_dir = tmp_path / "runs"
    words = (f"table='{table.root}'", "balance=generated", f"balance.run={{severe: '{severe_gan.path}'}}")
    words += ("balance.targets={severe: 25, very_severe: null}", "layout=acne04", f"runs_dir={runs_dir}")
    with pytest.raises(ValueError, match="lesion count for every image, and balance=generated adds images that have"):
        balance(composed("balance", *words))
    swap = ("balance=severity_swap", "edit.gans={base: x, severe: y}", "layout=acne04", f"runs_dir={runs_dir}")
    with pytest.raises(ValueError, match="balance=severity_swap adds images that have none"):
        balance(composed("balance", f"table='{table.root}'", *swap))
    with pytest.raises(ValueError, match="folds must be official or subject"):
        fill("layout=acne04", "folds=some")
    assert not list(runs_dir.glob("balance/*-*"))
    with pytest.raises(ValueError, match="13 of these have none"):
        fill("layout=acne04", uncounted=True)
    (folder,) = runs_dir.glob("balance/*-*")
    assert Run(folder).done and len(ImageTable.read(folder)) == NUM_EDITS


def test_generated_images_outlive_an_error(severe_gan, table, tmp_path, monkeypatch):
    """Of a memory that ran short, for one: the repetition draws what is missing."""
    words = (f"table='{table.root}'", "balance=generated", f"balance.run={{severe: '{severe_gan.path}'}}")
    words += ("balance.targets={severe: 22, very_severe: null}", "num_workers=1", f"runs_dir={tmp_path}")
    with monkeypatch.context() as patched, pytest.raises(ValueError, match="memory is too small"):
        patched.setattr(ImageTable, "write", lambda self: stop_for_memory())
        balance(composed("balance", *words))
    images = {path: path.stat().st_mtime_ns for path in tmp_path.glob("balance/*/table/images/*/*.png")}
    assert len(images) == 2
    run = balance(composed("balance", *words))
    assert run.done and {path: path.stat().st_mtime_ns for path in images} == images


def stop_for_memory():
    raise ValueError("the GPU's memory is too small")


def test_gans_that_know_who_is_held_out_are_refused_before_they_draw(severe_gan, table, tmp_path):
    swapped = replace(
        table, rows=table.rows.assign(split=table.rows["split"].replace({"train": "val", "val": "train"}))
    )
    words = ("table=x", "balance=generated", f"balance.run={{severe: '{severe_gan.path}'}}", f"runs_dir={tmp_path}")
    config = composed("balance", *words, "balance.targets={severe: 26, very_severe: null}", "num_workers=1")
    with pytest.raises(ValueError, match=r"the GANs of balance.run=(?s:.*) has seen the people on(?s:.*)\(val\)"):
        make_rows(config, swapped)
    assert not list(tmp_path.glob("balance/*-*"))


def test_an_editor_that_knows_who_is_held_out_is_refused_before_it_edits(table, tmp_path):
    """Its bank is of a training photograph that is, byte by byte, one of the test."""
    sha256 = table.rows["sha256"].where(table.rows.index != table.rows.index[table.rows["split"] == "test"][0])
    copied = sha256.fillna(table.rows.loc[table.rows["split"] == "train", "sha256"].iloc[0])
    words = ("table=x", *TARGETS, "num_workers=1", f"runs_dir={tmp_path}", "edit=overlay_bank")
    with pytest.raises(ValueError, match=r"the editor \(edit=overlay_bank\) has seen(?s:.*)\(test\)"):
        make_rows(composed("balance", *words), replace(table, rows=table.rows.assign(sha256=copied)))
    assert not list(tmp_path.glob("balance/*-*"))


def test_finished_edits_and_samples_get_the_lineage_that_is_known_now(fill, severe_gan, table, tmp_path):
    words = (f"table='{table.root}'", "balance=generated", f"balance.run={{severe: '{severe_gan.path}'}}")
    words += ("balance.targets={severe: 21, very_severe: null}", "num_workers=1", f"runs_dir={tmp_path}")
    for make in (fill, lambda: balance(composed("balance", *words))):
        run = make()
        before = (run.path / "table" / "lineage.csv").read_text()
        (run.path / "table" / "lineage.csv").unlink()
        assert make().path == run.path
        assert (run.path / "table" / "lineage.csv").read_text() == before


def test_generated_images_are_no_jpegs(severe_gan, table, tmp_path):
    """Also not beside photographs that are: these have shrunk to the GAN's resolution and lost their grid of 8 px."""
    photos = replace(
        table, rows=table.rows.assign(file_name=table.rows["file_name"].str.replace(".png", ".jpg")), boxes=None
    )
    words = ("table=x", "balance=generated", f"balance.run={{severe: '{severe_gan.path}'}}", f"runs_dir={tmp_path}")
    config = composed("balance", *words, "balance.targets={severe: 22, very_severe: null}", "num_workers=1")
    added = ImageTable.read(make_rows(config, photos).path)
    assert [Image.open(path).format for path in added.paths] == ["PNG", "PNG"]


def test_supplement(table, tmp_path):
    for number in range(7):
        path = tmp_path / "published" / f"levle{2 + number % 2}_generated" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(path)
    words = (f"table='{table.root}'", "balance=supplement", f"balance.root={tmp_path / 'published'}")
    words += (f"runs_dir={tmp_path / 'runs'}",)
    assert balance(composed("balance", *words, "dry_run=true")) is None
    run = balance(composed("balance", *words))
    assert run.metrics["counts"] == {"mild": 0, "moderate": 0, "severe": 4, "very_severe": 3}
    assert not Lineage.of(ImageTable.read(run.path)).known


# ---- graders --------------------------------------------------------------------------------


@pytest.fixture
def grader(toy_runs, tmp_path):
    """grader(words...): the config of experiment=grader with the fake editor."""

    def config(*words):
        words = (
            "experiment=grader",
            *TOY,
            *TINY_GRADER,
            "trainer.max_epochs=1",
            f"runs_dir={toy_runs}",
            *TARGETS,
            *words,
        )
        return composed("train", *words) | {"edit": DOTS}

    return config


def test_a_grader_learns_from_added_rows(grader, table):
    """Adding rows makes another run, from the same balance run; a repetition reuses both."""
    configs = [grader(f"balance={name}") for name in ("none", "oversample", "class_weights", "acnedit")]
    assert [config["loader"]["balanced"] for config in configs] == [False, True, False, True]
    assert [config["model"]["class_weighted"] for config in configs] == [False, False, True, False]
    runs = [train(config) for config in configs]
    assert len({run.key for run in runs}) == 4
    num_train = len(table.select(split="train"))
    assert [run.metrics["train"] for run in runs[:3]] == [{"num_images": num_train, "sources": {"toy": num_train}}] * 3
    sources = {"toy": num_train, "edited": NUM_EDITS}
    assert runs[3].metrics["train"] == {"num_images": num_train + NUM_EDITS, "sources": sources}
    again = train(configs[3])
    assert again.path == runs[3].path
    with pytest.raises(ValueError, match="is mild or moderate, so a grader would never say it"):
        train(grader("balance=acnedit", "balance.only=true"))  # edits of the two rare severities


def test_permuted_labels(grader, table):
    config = grader("balance=acnedit")
    null = config | {"balance": config["balance"] | {"permute_labels": "added"}}
    plain, permuted = added_rows(config, table), added_rows(null, table)
    labels = [list(zip(each.rows["severity"], each.rows["lesions"])) for each in (plain, permuted)]
    assert sorted(labels[0]) == sorted(labels[1])  # no head learns from true counts
    assert plain.rows["lesions"].tolist() != permuted.rows["lesions"].tolist()
    assert plain.rows["severity"].tolist() != permuted.rows["severity"].tolist()
    assert plain.rows["sha256"].tolist() == permuted.rows["sha256"].tolist()
    assert added_rows(grader("balance=none"), table) is None
    with pytest.raises(ValueError, match="balance=oversample adds none"):
        added_rows(grader("balance=oversample", "balance.only=true"), table)


def test_labels_are_dealt_among_all_tables(table):
    first, second = table.only(table.rows.index < 50), table.only(table.rows.index >= 50)
    dealt = dealt_anew([first, second], seed=3)
    labels = [pd.concat([each.rows[["severity", "lesions"]] for each in tables]) for tables in (dealt, [first, second])]
    assert sorted(map(tuple, labels[0].to_numpy())) == sorted(map(tuple, labels[1].to_numpy()))
    same = labels[0]["severity"].to_numpy() == labels[1]["severity"].to_numpy()
    assert same.mean() == pytest.approx(0.25, abs=0.12)  # by luck, of four severities as frequent as each other
    assert sorted(dealt[0].rows["severity"]) != sorted(first.rows["severity"])  # across the tables, too
    assert [each.rows["sha256"].tolist() for each in dealt] == [
        each.rows["sha256"].tolist() for each in (first, second)
    ]
    again = dealt_anew([first, second], seed=3)
    assert [each.rows.equals(other.rows) for each, other in zip(dealt, again)] == [True, True]


@pytest.mark.parametrize("word", ["true", "some"])
def test_an_unknown_word_for_permuted_labels(grader, table, word):
    with pytest.raises(ValueError, match="permute_labels is one of null, added, all, not"):
        added_rows(grader("balance=acnedit", f"balance.permute_labels={word}"), table)


def test_the_null_of_the_study_has_labels_that_say_nothing():
    """Dealt among two severities alone, labels would still tell these from the others."""
    plan = composed("study", "study=acne04_balancing")["study"]
    stages = in_order(expand(plan["stages"], ("mild", "moderate", "severe", "very_severe"), [0]))
    nodes = {}
    for stage in ("permuted_0", "synthetic_images"):
        words = [re.sub(r"@\w+", "x", word) for word in stages[stage]["overrides"] if not word.startswith("data=")]
        verb = stages[stage]["job"]
        nodes[stage] = composed(verb, *words, *(["data=toy"] if verb == "train" else []))["balance"]
    null = nodes["permuted_0"]
    assert null.pop("permute_labels") and not nodes["synthetic_images"].pop("permute_labels")
    assert null == nodes["synthetic_images"]  # a run of its own makes them, evenly
    assert (null["targets"], null["count"], null["budget"]) == (None, "none", plan["synthetic"])


def test_a_grader_is_not_tested_on_parents(grader, toy_runs, tmp_path, table):
    """Edits carry their parents' people: a test set with these is refused, although the table's own rows would do."""
    added = added_rows(grader("balance=acnedit"), table)
    parent = added.rows["parent"].iloc[0]
    rows = table.only(table.rows["file_name"] == parent).rows.assign(split="test")
    other = replace(table, root=tmp_path / "other", rows=rows, boxes=None)
    other.write()
    with pytest.raises(ValueError, match="has seen the people on 1 of 1 test images"):
        train(grader("balance=acnedit", f"test={other.root}"))


@pytest.mark.slow
def test_a_sweep_over_ways_of_balancing(tmp_path):
    words = ("train", "experiment=grader", "balance=none,oversample,class_weights,acnedit", *TOY, *TINY_GRADER, "-m")
    words += (f"runs_dir={tmp_path}", *TARGETS, "edit=dots", "--config-dir", str(TESTS / "conf"))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])}
    words = (sys.executable, "-m", "acne_lab.jobs", *words)
    result = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=300)
    assert result.returncode == 0, result.stderr
    runs = [Run(path.parent) for path in (tmp_path / "train").glob("*/DONE")]
    assert sorted(run.config["balance"]["name"] for run in runs) == ["acnedit", "class_weights", "none", "oversample"]
    assert len(list((tmp_path / "balance").glob("*/DONE"))) == 1
