"""The model card of a grader: what it is, what it was made of, how well it grades whom, and what it is not for.

Sections are those of Mitchell et al., "Model Cards for Model Reporting" (FAT* 2019). Everything in it is read from what
the run holds: it cannot be more flattering than the figures. Nothing on it says where files lie on the machine.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import yaml

from acne_lab.data.table import replace_text
from acne_lab.report import names
from acne_lab.report.collect import without_machine_paths
from acne_lab.report.parts import SOURCE_NAMES, counted, markdown_templates

CARD = "model_card.md"
BALANCE = {"only": "generated or edited images alone", "permute_labels": "labels permuted: a null that must not work"}
FITTED = {"temperature": "the temperature", "weights": "the weights of the classes"}  # of the config's decision
FEW_PEOPLE = 30  # of a test: below, an interval over people is a rough one


@dataclass(frozen=True)
class Part:
    """Images that a grader learned from, was chosen by or was tested on, as the card counts them."""

    name: str
    rows: pd.DataFrame

    @property
    def people(self) -> str:
        known = self.rows["subject"].replace("", None).dropna()
        unknown = len(self.rows) - len(known)
        return f"{known.nunique()}" + (f", and {counted(unknown, 'image')} of nobody knows whom" if unknown else "")

    @property
    def sources(self) -> str:
        numbers = self.rows["source"].value_counts()
        return ", ".join(f"{number} {SOURCE_NAMES.get(name, name).lower()}" for name, number in numbers.items())

    def severities(self, classes: list[str]) -> list[int]:
        return [int((self.rows["severity"] == name).sum()) for name in classes]


def write_card(run_dir: Path, *, parts: Mapping[str, pd.DataFrame], columns: Iterable[str]) -> Path:
    """Write `model_card.md` into a grader's run, aside and renamed; return its path.

    Args:
        run_dir: `runs/train/NAME-KEY`, with config.yaml, metrics.json and environment.json.
        parts: rows of image tables by "train", "val" and "test": severity, subject, source.
        columns: of its predictions, of which some are groups of images (`names.SLICES`).
    """
    run_dir = Path(run_dir).resolve()
    config = yaml.safe_load((run_dir / "config.yaml").read_text())
    metrics, environment = (json.loads((run_dir / f"{name}.json").read_text()) for name in ("metrics", "environment"))
    columns = set(columns)
    classes = metrics["classes"]
    facts = {
        "name": run_dir.name,
        "command": f"acne-lab explain run={run_dir.name}",
        "details": details(config, metrics, environment),
        "classes": classes,
        "parts": [Part(name, rows) for name, rows in parts.items()],
        "factors": [word for name, word in names.SLICES.items() if name in columns and name != "source"],
        "figures": figures(metrics),
        "recall": [(name, *(of_class(metrics[split], name) for split in ("val", "test"))) for name in classes],
        "confusion": list(zip(classes, metrics["test"]["confusion"])),
        "num_test": counted(metrics["test"]["num_test"], "photograph"),
        "people": people(metrics),
        "lineage": lineage(metrics["lineage"]),
        "decision": decision(metrics["decision"], config["decision"], classes),
        "fitted": [words for name, words in FITTED.items() if config["decision"][name]],
        "chosen_on": metrics["test_opened"]["chosen_on"],
        "opened": metrics["test_opened"],
        "chance": f"{1 / max(len([c for c in classes if of_class(metrics['test'], c) != 'none']), 1):.3f}",
        "caveats": caveats(metrics, parts),
    }
    text = markdown_templates().get_template("card.md.j2").render(facts)
    path = run_dir / CARD
    replace_text(path, without_machine_paths(text, run_dir.parent.parent))
    return path


def details(config: Mapping, metrics: Mapping, environment: Mapping) -> dict[str, str]:
    """What the grader is and how it was trained, in a few lines."""
    model, balance = config["model"], config["balance"]
    start = {False: "random weights", True: "timm's pretrained weights", "package": "ImageNet weights"}
    pretrained = start.get(model["pretrained"], f"weights of the file {Path(str(model['pretrained'])).name}")
    head = model["head"]["_target_"].rpartition(".")[2]
    optimizer = model["optimizer"]
    heads = config.get("probe")
    trained = f"{optimizer['_target_'].rpartition('.')[2]}, at most {counted(config['trainer']['max_epochs'], 'epoch')}"
    if heads:
        number = len(heads["lrs"]) * len(heads["weight_decays"]) * heads["num_seeds"]
        trained += f"; the backbone is frozen, the head is the best of {number} on the validation images"
    packages = environment["packages"]
    return {
        "Network": f"{model['backbone']} (timm {packages['timm']}), {pretrained}, with a {head}",
        "Input": f"square RGB photographs of {config['data']['resolution']} px",
        "Training": f"{trained}; epoch {metrics['test_opened']['epoch']} is used; seed {config['seed']}",
        "Balance": ", ".join([balance["name"], *(words for name, words in BALANCE.items() if balance.get(name))]),
        "Protocol": str(config.get("protocol", "")),
        "Made with": f"acne_lab {environment['code']}, torch {packages['torch']}",
    }


def figures(metrics: Mapping) -> list[tuple[str, str, str]]:
    """A row for each figure of the card that is defined."""
    described = {name: each.words for name, each in names.KINDS.items() if each.words}
    return [row for name, words in described.items() if (row := figure(metrics, name, words))]


def figure(metrics: Mapping, name: str, word: str) -> tuple[str, str, str] | None:
    """A figure of the validation and of the test images, each with its interval; None where neither is defined."""
    cells = [cell(metrics[split], name) for split in ("val", "test")]
    return None if cells == ["none", "none"] else (word, *cells)


def cell(figures: Mapping, name: str) -> str:
    if figures.get(name) is None:
        return "none"
    interval = (figures.get("interval") or {}).get(name) or {}
    known = f" ({interval['low']:.3f} to {interval['high']:.3f})" if "low" in interval else ""
    return f"{figures[name]:.3f}{known}"


def of_class(figures: Mapping, name: str) -> str:
    recall = figures["recall"].get(name)
    return "none" if recall is None else f"{recall:.3f}"


def people(metrics: Mapping) -> str:
    number = metrics["test"].get("num_subjects")
    return "an unknown number of people" if number is None else counted(number, "person", "people")


def lineage(about: Mapping) -> str:
    """Whom it has seen, in a sentence or two."""
    if not about["known"]:
        return (
            "It is not known whose photographs it has learned from: the weights it started from, or the images that it "
            "was given, come from elsewhere. People of the test may be among them."
        )
    seen = f"It has learned from, or was chosen by, {counted(about['num_photographs'], 'photograph')}."
    share = about["leaked_share"]
    if share is None:
        return f"{seen} Nobody has told who is on them, so people of the test may be among them."
    if share == 0:
        return f"{seen} No person on a test image is on any of them."
    return f"{seen} The people on {share:.1%} of the test images are on some of them: the test flatters it."


def decision(decided: Mapping, fitted: Mapping, classes: list[str]) -> str:
    """How probabilities become grades; `fitted` says of temperature and weights whether they were asked for."""
    text = "Probabilities are the network's own, not calibrated"
    if fitted["temperature"]:
        text = f"Probabilities are calibrated with a temperature of {decided['temperature']:.2f}"
    if decided["weights"] is None:
        return f"{text}; the grade is the most probable one."
    weights = ", ".join(f"{name} {weight:.2f}" for name, weight in zip(classes, decided["weights"]))
    return f"{text}; the grade is the most probable one after weighing ({weights})."


def caveats(metrics: Mapping, parts: Mapping[str, pd.DataFrame]) -> list[str]:
    """What follows from this run's own numbers."""
    test, found = metrics["test"], []
    sources = set(parts["test"]["source"])
    if sources == {"toy"}:
        found.append("It was tested on faces drawn by code: this says nothing about photographs.")
    elif sources - {"real"}:
        found.append("Some of its test images are no photographs as they were taken.")
    if (number := test.get("num_subjects")) is not None and number < FEW_PEOPLE:
        found.append(f"{counted(number, 'person', 'people').capitalize()} in the test are few: figures are rough.")
    if untested := [name for name in metrics["classes"] if of_class(test, name) == "none"]:
        found.append(f"No test image is {' or '.join(untested)}: how it grades these is not known.")
    if never := [name for name in metrics["classes"] if of_class(test, name) == "0.000"]:
        found.append(f"It recognised no test image that is {' or '.join(never)}.")
    return found
