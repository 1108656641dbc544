"""Edits for a run: from the config of an edit (`conf/edit/`) to an editor, from a plan to files, journal and rows.

The run's journal has a line for each edit that was tried, written when its files are on the disk.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from acne_lab.build import build
from acne_lab.data.lineage import Lineage
from acne_lab.data.table import BOX_COLUMNS, ImageTable
from acne_lab.data.workers import ended, start_workers
from acne_lab.edit.encoding import suffix_like
from acne_lab.edit.plan import bands_of
from acne_lab.jobs.edit_photo import Task, edit_photo, edit_with_own_editor, limited_threads, take_editor
from acne_lab.runs import JOURNAL, Run, write_text

UNREFINED = ("overlay", "overlay_bank")  # edits without a network, by what column `edit` calls them
MANY_SKIPPED = 0.1  # share of the edits that were tried


def inputs_of(edit: dict, table: ImageTable, runs_dir: str) -> tuple[list[str], Lineage]:
    """What the editor that `edit` describes has learned from, found without making it.

    Args:
        edit: a node of conf/edit: `editor`, and which of `bank`, `refiner` and `gans` it takes.
        table: whose training rows a bank cuts its lesions from.
        runs_dir: where the runs are that `refiner` and `gans` name.

    Returns:
        the keys of what it has learned from and finds faces with, and whose photographs that were, besides the one
        that it edits.

    Raises:
        ValueError: a run is missing or unfit, or the name says less than the edit does.
    """
    if edit.get("refiner") and edit["name"] in UNREFINED:
        raise ValueError(
            f"the table would call refined edits {edit['name']}: choose edit=refined edit.refiner=RUN, or a name of "
            "their own (edit.name=...)"
        )
    keys, lineages = [], []
    if edit.get("bank"):
        training = table.select(split="train")
        keys.append(f"bank:{training.key}")
        lineages.append(Lineage.of(training))
    if edit.get("refiner"):
        from acne_lab.jobs.refiners import find_refiner

        _, key, lineage = find_refiner(edit["refiner"], runs_dir)
        keys.append(f"refiner:{key}")
        lineages.append(lineage)
    if edit.get("gans"):
        from acne_lab.jobs.swaps import find_swap

        _, gan_keys, lineage = find_swap(edit["gans"], runs_dir, **edit.get("projection", {}))
        keys += [f"gan:{key}" for key in gan_keys]
        lineages.append(lineage)
    if (analyse := edit["editor"].get("analyse")) and (finder := build(analyse).finder):
        keys.append(f"faces:{finder.fingerprint}")  # other detectors find other faces: those that are installed here
    return keys, Lineage.merged(*lineages)


def without_places(edit: dict) -> dict:
    """What `edit` says of how photographs are edited; what it names as runs and files counts by content instead."""
    editor = dict(edit["editor"])
    if "analyse" in editor:
        editor["analyse"] = {name: value for name, value in editor["analyse"].items() if name != "blazeface"}
    return {name: value for name, value in edit.items() if name not in ("refiner", "gans")} | {"editor": editor}


def make_editor(edit: dict, table: ImageTable, runs_dir: str) -> Callable:
    """The editor that `edit` describes: `edit.editor.Editor`, or `edit.swap.SeveritySwap`. It can be pickled.

    Args: as `inputs_of`.

    Raises:
        ValueError: a run is missing or unfit, or the bank finds no lesions.
    """
    node, parts = dict(edit["editor"]), {}
    if edit.get("bank"):
        parts["source"] = build({**node.pop("source"), "_partial_": True})(table=table.select(split="train"))
    if edit.get("refiner"):
        from acne_lab.jobs.refiners import load_refiner

        parts["refine"] = load_refiner(edit["refiner"], runs_dir)
    if edit.get("gans"):
        from acne_lab.jobs.swaps import make_swap

        parts["swap"] = make_swap(edit["gans"], runs_dir, **edit.get("projection", {}))
    # A partial: Hydra would copy objects that it is given as arguments into its config.
    return build({**node, "_partial_": True})(**parts)


def image_name(run: Run, table: ImageTable, severity: str, number: int, suffix: str) -> str:
    """Where an added image lies: its name tells the severity and nothing of its parent, and no other image has it."""
    name = hashlib.sha256(f"{run.key}/{number}".encode()).hexdigest()[:12]
    return f"images/levle{table.classes.index(severity)}_generated/{name}{suffix}"


def make_edits(run: Run, table: ImageTable, plan: pd.DataFrame, editor: Callable, config: dict) -> dict[int, dict]:
    """Make the edits of a plan that the run's journal does not have yet; every outcome by its place in the plan.

    Where an edit is skipped, a spare takes its place (`next_candidates`). Which are tried depends on no timing.

    Raises:
        ValueError: there are not enough spares.
    """
    folder = run.path / "table"
    for half_written in folder.glob("*/*/.*"):  # by a process that was killed
        half_written.unlink(missing_ok=True)
    for severity in plan["severity"].unique():
        name = Path(image_name(run, table, severity, 0, ""))
        (folder / name.parent).mkdir(parents=True, exist_ok=True)
        (folder / mask_name(name)).parent.mkdir(parents=True, exist_ok=True)
    outcomes = read_journal(run)
    boxes = None if table.boxes is None else dict(list(table.boxes.groupby("file_name")))
    num_edits = int((~plan["is_spare"]).sum())
    num_done = sum("skipped" not in outcome for outcome in outcomes.values())
    with (
        (run.path / JOURNAL).open("a", encoding="utf-8") as journal,
        tqdm(total=num_edits, initial=num_done, unit="img", desc=f"balance ({config['edit']['name']})") as bar,
    ):
        while candidates := next_candidates(plan, outcomes):
            tasks = [task_of(run, table, i, plan.loc[i], boxes) for i in candidates]
            for outcome in side_by_side(editor, tasks, config):
                journal.write(json.dumps(outcome) + "\n")
                journal.flush()
                outcomes[outcome["candidate"]] = outcome
                bar.update("skipped" not in outcome)
    require_all(plan, outcomes)
    return outcomes


def next_candidates(plan: pd.DataFrame, outcomes: dict[int, dict]) -> list[int]:
    """The edits that come next: those of the plan, then, for each that was skipped, a spare.

    A spare has the severity and, where one is left, the skin tone of what it stands for; among these the next in turn.
    What stands for what follows from the outcomes alone, in whatever order they came.
    """
    tones, found = plan["tone"].to_dict(), []
    for _, group in plan.groupby("severity", sort=False):
        spares = group.index[group["is_spare"]].tolist()
        planned = group.index[~group["is_spare"]].tolist()
        while planned and all(i in outcomes for i in planned):
            skipped, planned = [i for i in planned if "skipped" in outcomes[i]], []
            for i in skipped[: len(spares)]:
                alike = [spare for spare in spares if tones[spare] == tones[i]]
                planned.append((alike or spares)[0])
                spares.remove(planned[-1])
        found += [i for i in planned if i not in outcomes]
    return sorted(found)


def task_of(
    run: Run, table: ImageTable, candidate: int, edit: pd.Series, boxes: dict[str, pd.DataFrame] | None
) -> Task:
    """The task of a row of the plan.

    `boxes` are those of each photograph that has any, None if nobody knows them. A photograph whose lesions were
    counted and not boxed has some that nobody knows: the editor looks for them, and draws none on top.
    """
    image = Path(image_name(run, table, edit["severity"], candidate, suffix_like(edit["file_name"])))
    known = None
    if boxes is not None and edit["file_name"] in boxes:
        known = boxes[edit["file_name"]][list(BOX_COLUMNS[1:])].to_numpy(np.float32)
    elif boxes is not None and edit["lesions_before"] == 0:
        known = np.zeros((0, 4), np.float32)
    return Task(
        candidate=candidate,
        photo=table.root / edit["file_name"],
        boxes=known,
        num_added=int(edit["num_added"]),
        severity=edit["severity"],
        seed=int(edit["seed"]),
        image=run.path / "table" / image,
        mask=run.path / "table" / mask_name(image),
    )


def mask_name(image: Path) -> Path:
    """images/x/y.jpg -> masks/x/y.png"""
    return Path("masks", *image.parts[1:]).with_suffix(".png")


def side_by_side(editor: Callable, tasks: list[Task], config: dict) -> Iterator[dict]:
    """The outcomes of tasks as they come, from `num_workers` processes; of one worker, from this process."""
    num_workers, num_threads = min(config["num_workers"], len(tasks)), config["num_threads"] or 1
    if num_workers == 1:
        with limited_threads(num_threads):
            yield from (edit_photo(editor, task) for task in tasks)
        return
    pool = start_workers(num_workers, take_editor, editor, num_threads)
    try:
        for future in as_completed([pool.submit(edit_with_own_editor, task) for task in tasks]):
            yield future.result()
    except BrokenProcessPool as error:
        raise ended("edits") from error
    finally:
        pool.shutdown(cancel_futures=True)


def read_journal(run: Run) -> dict[int, dict]:
    """The outcomes that the journal has, by candidate; a last line that was cut off is dropped from it."""
    path = run.path / JOURNAL
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
    write_text(path, "".join(line + "\n" for line in lines))
    return {outcome["candidate"]: outcome for outcome in map(json.loads, lines)}


def skipped_edits(plan: pd.DataFrame, outcomes: dict[int, dict]) -> pd.DataFrame:
    """The rows of the plan that were tried in vain, and why."""
    skipped = plan.loc[sorted(i for i, outcome in outcomes.items() if "skipped" in outcome)]
    return skipped.assign(reason=[outcomes[i]["skipped"] for i in skipped.index]).drop(columns="is_spare")


def require_all(plan: pd.DataFrame, outcomes: dict[int, dict]) -> None:
    """ValueError where so many edits were skipped that the spares did not do; with the reasons."""
    skipped = skipped_edits(plan, outcomes)
    made = plan.loc[sorted(set(outcomes) - set(skipped.index)), "severity"].value_counts()
    wanted = plan.loc[~plan["is_spare"], "severity"].value_counts()
    if short := [
        f"{made.get(name, 0)} of {number} {name}" for name, number in wanted.items() if made.get(name, 0) < number
    ]:
        reasons = skipped["reason"].value_counts().head().items()
        raise ValueError(
            f"only {', '.join(short)} edits could be made, and there are no spares left. {len(skipped)} were skipped: "
            + "; ".join(f"{reason} ({number})" for reason, number in reasons)
            + ". Lower balance.targets or allow more edits of a photograph (balance.max_per_source)"
        )


def realised_text(plan: pd.DataFrame, outcomes: dict[int, dict]) -> str:
    """How far the edits that were made are those that were planned, as lines for a terminal."""
    num_skipped = sum("skipped" in outcome for outcome in outcomes.values())
    share = num_skipped / len(outcomes)
    lines = [f"{num_skipped} of {len(outcomes)} edits that were tried were skipped ({share:.0%})"]
    if num_skipped:
        both = plan[~plan["is_spare"]], plan.loc[[i for i, outcome in outcomes.items() if "skipped" not in outcome]]
        people, tones = [], []
        for edits in both:
            people.append(edits["subject"].where(edits["subject"] != "", edits["file_name"]).nunique())
            counts = edits["tone"].replace("", "unknown").value_counts().sort_index()
            tones.append(", ".join(f"{tone}: {n}" for tone, n in counts.items()))
        lines.append(f"people: {people[0]} planned, {people[1]} edited")
        if (plan["tone"] != "").any():
            lines.append(f"skin tones: planned {tones[0]}; edited {tones[1]}")
    if share > MANY_SKIPPED:
        lines.append("many were skipped: who is edited is not who was planned; skipped.csv has the reasons")
    return "\n".join(lines)


def edited_rows(
    run: Run, table: ImageTable, made: pd.DataFrame, outcomes: dict[int, dict], *, name: str
) -> pd.DataFrame:
    """The rows of the edits that were made: labelled by their lesions after the edit, where these are known."""
    bands, parents = bands_of(table.classes), table.rows.set_index("file_name")
    rows = []
    for edit in made.itertuples():
        outcome, parent = outcomes[edit.Index], parents.loc[edit.file_name]
        added = outcome["lesions_added"]
        after = None if added is None else edit.lesions_before + added
        fewest, most = bands[edit.severity]
        assert after is None or fewest <= after <= (most or after), (
            f"{name} added {added} lesions to {edit.lesions_before}, not {edit.num_added}: that is not {edit.severity}"
        )
        image = image_name(run, table, edit.severity, edit.Index, suffix_like(edit.file_name))
        row = {
            "file_name": image,
            "severity": edit.severity,
            "lesions": after,
            "subject": parent["subject"],
            "split": "train",
            "source": "edited",
            "parent": edit.file_name,
            "sha256": outcome["sha256"],
            "edit": name,
            "mask": mask_name(Path(image)).as_posix(),
            "seed": edit.seed,
            "lesions_before": edit.lesions_before,
            "lesions_added": added,
            "parameters": json.dumps(outcome["parameters"], sort_keys=True),
        }
        rows.append(row | ({"skin_tone": parent["skin_tone"]} if "skin_tone" in parent else {}))
    rows = pd.DataFrame(rows)
    return rows.assign(lesions_added=rows["lesions_added"].astype("Int64"))


def edited_boxes(run: Run, table: ImageTable, made: pd.DataFrame, outcomes: dict[int, dict]) -> pd.DataFrame:
    """All boxes of the edits, the photograph's own first; none of an edit that does not count its lesions."""
    own = {} if table.boxes is None else dict(list(table.boxes.groupby("file_name")))
    boxes = []
    for edit in made.itertuples():
        outcome = outcomes[edit.Index]
        if outcome["lesions_added"] is None:
            continue
        image = image_name(run, table, edit.severity, edit.Index, suffix_like(edit.file_name))
        before = own[edit.file_name][list(BOX_COLUMNS[1:])].to_numpy().tolist() if edit.file_name in own else []
        boxes += [(image, *corners) for corners in [*before, *outcome["boxes"]]]
    return pd.DataFrame(boxes, columns=list(BOX_COLUMNS))
