"""Every command of the README is one that works: it composes here, and the slow test runs them in order."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from tiny import TINY_GRADER, TOY, composed

from acne_lab.cli import VERBS
from acne_lab.jobs.__main__ import PLAIN

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = "\n".join(re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL)).replace("\\\n", " ")
COMMANDS = [shlex.split(line, comments=True) for line in BLOCKS.splitlines() if line.startswith("acne-lab ")]


def test_make_targets_exist():
    targets = re.findall(r"^make (\S+)", BLOCKS, flags=re.MULTILINE)
    assert targets == ["demo", "test"]
    makefile = (ROOT / "Makefile").read_text()
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)


WITH_CONFIG = [words for words in COMMANDS if words[1] not in PLAIN]


@pytest.mark.parametrize("words", WITH_CONFIG, ids=" ".join)
def test_commands_compose(words):
    """Of a sweep, its first member; a run that an earlier command would have made is a table somewhere."""
    first = [re.sub(r"^([\w.]+=\w+),.*", r"\1", word) for word in words[2:] if word != "-m"]
    if "data=balanced" in first:
        first[first.index("data=balanced")] = "data=table"
        first.append("data.root=somewhere")
    composed(words[1], *first)


SETTINGS = re.findall(r"`([^`]*=[^`]*)`", README.split("## A GAN of your own")[1].split("\n## ")[0])


@pytest.mark.parametrize("setting", SETTINGS)
def test_settings_of_a_gan_compose(setting):
    words = shlex.split(setting)
    if setting.startswith("study="):
        extra = ["study.ffhq=faces.pkl", "study.camera=phone"] if setting == "study=ffhq_hierarchy" else []
        composed("study", *words, *extra)
    else:
        given = [] if setting.startswith("experiment=") else ["experiment=gan_severity"]
        composed("train", *given, "stage.severity=severe", "init_from=toy_faces_64", *words)


def test_the_table_of_verbs_is_whole():
    assert set(re.findall(r"^\| `acne-lab (\w+)", README, flags=re.MULTILINE)) == set(VERBS)
    assert {words[1] for words in COMMANDS} == set(VERBS)


def test_pictures_and_pages_exist():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target


@pytest.mark.slow
def test_commands_run(tmp_path):
    """In order, in one folder, with the shipped base model and budgets of the smallest size."""
    small = {
        "gan_severity": ["stage.num_images=32", "stage.tick_images=16"],
        "gan_base": ["stage.num_images=32", "stage.tick_images=16"],
        "experiment=grader": TINY_GRADER,
        "experiment=probe": ["model.input_size=64", "loader.batch_size=8", "trainer.max_epochs=2"],
        "cnn_benchmark": ["data.source.num_images=160", "data.source.photos_per_subject=4", "num_threads=1"],
        "explain": ["num_images=8", "num_random=1", "batch_size=8"],
        "mode=project": ["mode.num_steps=5"],
        "out=bench.json": ["configs=8-64-b4", "repeats=1", "seconds=0", "overheads=false"],
        "table=toy": ["balance.targets={severe: 24, very_severe: 24}", "num_workers=1"],
        "demo": ["study.gan_images=960", "study.num_generated=80", "study.real_epochs=1", "study.generated_epochs=1"],
    }
    toy = [text for text in TOY if not text.startswith("data.resolution")]
    for number in range(60):
        folder = tmp_path / "photos" / ("mild", "severe")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((70, 60), 40 + number).convert("RGB").save(folder / f"p{number:02d}_a.jpg")
    for words in COMMANDS:
        extra = [text for name, overrides in small.items() if any(name in word for word in words) for text in overrides]
        if words[1] in ("prepare", "train", "study") and not {"data=balanced", "data.root=photos"} & set(words):
            extra += [text for text in toy if "study=cnn_benchmark" not in words]
        if words[1] == "report":
            extra = []
        if words[1] == "balance":  # of fewer faces, fewer edits
            words = [word for word in words if not word.startswith("balance.targets")]
        extra = [text for text in extra if text.split("=")[0] not in {word.split("=")[0] for word in words}]
        command = [sys.executable, "-m", "acne_lab.cli", *words[1:], *extra]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (words, done.stderr[-2000:])
