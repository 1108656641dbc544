"""The command line: quick help, clear errors, a wheel that carries its configs."""

import resource
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from tiny import TINY_GRADER, TOY

from acne_lab.runs import Run

ROOT = Path(__file__).parent.parent


def acne_lab(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "acne_lab.cli", *words], cwd=cwd, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(("words", "limit"), [(("--help",), 0.3), (("train", "--help"), 3.0)])
def test_help_is_quick(words, limit):
    """In processor seconds, which a busy machine does not stretch."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = acne_lab(*words)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < limit


@pytest.mark.parametrize(
    "verb", ["prepare", "train", "generate", "study", "explain", "report", "convert", "runs", "bench", "ops"]
)
def test_every_verb_has_help(verb):
    assert verb in acne_lab("--help").stdout
    done = acne_lab(verb, "--help")
    assert done.returncode == 0, done.stderr
    assert "seed" in done.stdout or "usage" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("trian",), "did you mean train?"),
        (("train",), "choose what to train: experiment=gan_base"),
        (("train", "experiment=grader", "backbone=tesnet"), "there is no backbone tesnet: did you mean resnet50"),
        (("train", "experiment=grader", "backbone=resnet34"), "model.backbone=resnet34"),
        (("train", "experiment=grader", "head=softmx"), "there is no head softmx: did you mean softmax?"),
        (("train", "experiment=grader", "protocol=ld"), "there is no protocol ld: did you mean ldl?"),
        (("study",), "choose a study: study=demo"),
        (("prepare", "data=folder"), "data.root=..."),
        (("prepare", "data=folder", "data.root=nowhere"), "nowhere"),
        (("generate", "run=nothing"), "there is no run nothing"),
        (("report", "study=nothing"), "no study nothing"),
        (("convert", "file=nothing.pkl", "to=x.onnx"), "there is no nothing.pkl"),
        (("bench", "configs=64-2048"), "resolution-width-batch"),
        (("ops", "repair"), "invalid choice: 'repair'"),
    ],
)
def test_errors_are_one_clear_line(words, message, tmp_path):
    done = acne_lab(*words, cwd=tmp_path)
    assert done.returncode != 0
    assert message in done.stderr
    if "experiment=grader" in words:
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_members_of_a_sweep_side_by_side(toy_runs, tmp_path):
    """One whose input is wrong fails the command, and stops no other."""
    words = ("experiment=grader", *TOY, *TINY_GRADER, "num_threads=1", f"runs_dir={toy_runs}", "seed=77")
    side_by_side = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "-m", "test=nothing,null")
    done = acne_lab("train", *words, *side_by_side, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "there is no run nothing" in done.stderr
    [path] = done.stdout.splitlines()
    assert Run(Path(path)).done


def test_runs_lists_what_is_there(toy_runs):
    done = acne_lab("runs", f"runs_dir={toy_runs}")
    assert "an image table" in done.stdout
    assert "done" in done.stdout


def test_the_wheel_carries_configs_weights_and_kernels(tmp_path):
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    for path in (ROOT / "conf").rglob("*.yaml"):
        assert f"acne_lab/conf/{path.relative_to(ROOT / 'conf').as_posix()}" in names
    package = [path.relative_to(ROOT).as_posix() for path in (ROOT / "acne_lab").rglob("*.*") if "__" not in path.name]
    assert "acne_lab/gan/pretrained/toy_faces_64.safetensors" in package
    assert [name for name in package if "__pycache__" not in name and name not in names] == []
