"""`acne-lab balance table=TABLE balance=acnedit`: the images that a table lacks, as a table of their own.

They are edits of its training photographs, samples of GANs, or a published supplement (`conf/balance/`). The plan is
printed first. Kill it at any moment and repeat the command: it goes on with the images that are not on the disk yet.
A grader of experiment=grader asks for the same run through `added_rows`.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from filelock import FileLock

from acne_lab.build import run_logger
from acne_lab.data.acne04_layout import fold_of, write_acne04
from acne_lab.data.lineage import Lineage, check_table, require_held_out
from acne_lab.data.supplement import Supplement, read_supplement
from acne_lab.data.table import ImageTable
from acne_lab.edit.editor import VERSION
from acne_lab.edit.plan import bands_of, class_counts, deficits, fillable_classes, plan_edits, plan_text
from acne_lab.jobs.edits import (
    edited_boxes,
    edited_rows,
    image_name,
    inputs_of,
    make_editor,
    make_edits,
    realised_text,
    skipped_edits,
    without_places,
)
from acne_lab.runs import Run, find_table, open_run, write_text

# What loads torch is imported where it is needed: a plan and edits without networks do without its seconds.
PERMUTED = (None, "added", "all")
KINDS = ("none", "edit", "generate", "supplement")
LAYOUTS = ("table", "acne04")


def balance(config: dict) -> Run | None:
    """Make the run that `config["balance"]` describes for `config["table"]`; None after a dry run."""
    return make_rows(config, ImageTable.read(find_table(config["table"], config["runs_dir"])))


def added_rows(config: dict, table: ImageTable) -> ImageTable | None:
    """The rows that `config["balance"]` adds to the training rows of `table`; None: it adds none.

    The run that holds them is made first, or found made. `balance.permute_labels=added` deals their severities, and
    with each its lesion count, anew among them, as a null arm: the same images. These labels say nothing if every
    severity has as many of the images (balance.targets=null balance.budget=N balance.count=none); of two severities
    alone they still say truly that an image is of one of the two.
    """
    if config["balance"]["permute_labels"] not in PERMUTED:
        raise ValueError(
            f"balance.permute_labels is one of null, added, all, not {config['balance']['permute_labels']}"
        )
    if config["balance"]["kind"] == "none":
        if config["balance"]["only"]:
            raise ValueError(
                f"balance.only trains on added images alone, and balance={config['balance']['name']} adds none"
            )
        return None
    about = {name: config[name] for name in ("runs_dir", "balance", "edit", "num_threads")}
    about |= {"num_workers": max(1, config["data"]["num_workers"]), "batch_size": config["loader"]["batch_size"]}
    about |= {"name": config["balance"]["name"], "logger": None, "dry_run": False, "layout": "table"}
    added = ImageTable.read(make_rows(about, table).path)
    if config["balance"]["permute_labels"] == "added":
        (added,) = dealt_anew([added], seed=config["seed"])
    return added


def dealt_anew(tables: Sequence[ImageTable], *, seed: int) -> list[ImageTable]:
    """The tables with severities and lesion counts, which stay together, dealt anew among all their rows."""
    labels = pd.concat([table.rows[["severity", "lesions"]] for table in tables], ignore_index=True)
    labels = labels.iloc[np.random.default_rng(seed).permutation(len(labels))]
    dealt = []
    for table in tables:
        own, labels = labels.iloc[: len(table)], labels.iloc[len(table) :]
        columns = {name: own[name].array for name in own}
        dealt.append(replace(table, rows=table.rows.assign(**columns)))
    return dealt


def make_rows(config: dict, table: ImageTable) -> Run | None:
    """Plan, print the plan, and make the run, in the way of its kind."""
    kind = config["balance"]["kind"]
    if kind not in KINDS or config["layout"] not in LAYOUTS:
        raise ValueError(f"balance.kind is one of {', '.join(KINDS)}, layout one of {', '.join(LAYOUTS)}")
    if config["num_workers"] < 1:
        raise ValueError(f"num_workers must be at least 1, not {config['num_workers']}")
    if kind == "none":
        raise ValueError(
            f"balance={config['balance']['name']} adds no images: graders draw or weigh differently with it. "
            "Choose balance=acnedit, generated, severity_swap or supplement"
        )
    check_table(table)
    if config["layout"] == "acne04":
        require_counts(config, table)
    return {"edit": edited_run, "generate": generated_run, "supplement": supplement_run}[kind](config, table)


def edited_run(config: dict, table: ImageTable) -> Run | None:
    """Edits of the training photographs."""
    node = config["balance"]
    bands_of(table.classes)  # the first question, before those about targets
    fillable = fillable_classes(table.classes, node["sources"])
    counts, lacking = counts_and_deficits(node, table, fillable)
    how = {name: node[name] for name in ("sources", "max_per_source", "seed")}
    plan = plan_edits(table.rows, table.classes, lacking, **how)
    text = plan_text(counts, lacking, plan)
    if config["dry_run"]:
        print(text)
        return None
    edit = config["edit"]
    keys, lineage = inputs_of(edit, table, config["runs_dir"])
    require_held_out(lineage, table, what=f"the editor (edit={edit['name']})")
    inputs = [table.key, digest([VERSION, plan.to_csv(), without_places(edit)]), *keys]
    with open_run(noted(config, table), job="balance", inputs=inputs) as run:
        if not run.done:
            print(text, flush=True)
            outcomes = make_edits(run, table, plan, make_editor(edit, table, config["runs_dir"]), config)
            made = plan.loc[sorted(i for i, outcome in outcomes.items() if "skipped" not in outcome)]
            skipped = skipped_edits(plan, outcomes)
            write_text(run.path / "skipped.csv", skipped.to_csv(index=False))
            realised = realised_text(plan, outcomes)
            print(realised, flush=True)
            notes = [*text.splitlines(), *realised.splitlines()]
            report = {"population": table.report.get("population", ""), "notes": notes}
            written = ImageTable(
                root=run.path / "table",
                rows=edited_rows(run, table, made, outcomes, name=edit["name"]),
                classes=table.classes,
                report=report,
                boxes=edited_boxes(run, table, made, outcomes),
            )
            ancestors = Lineage.merged(Lineage.of(parents_of(written, table)), lineage)
            finish(run, config, written, ancestors, {"num_skipped": len(skipped)})
        else:  # more may be known of its ancestors than when it was made
            written = ImageTable.read(run.path)
            Lineage.merged(Lineage.of(parents_of(written, table)), lineage).write(written.root)
    if config["layout"] == "acne04":  # of a run that is done: what goes wrong there leaves the images as they are
        lay_out(run, config, table, learned_from=lineage)
    return run


def parents_of(edits: ImageTable, table: ImageTable) -> ImageTable:
    """The rows of `table` that were edited."""
    return table.only(table.rows["file_name"].isin(edits.rows["parent"]))


def generated_run(config: dict, table: ImageTable) -> Run | None:
    """Samples of GANs."""
    import torch

    from acne_lab.jobs.gans import checked_psi
    from acne_lab.jobs.generate import draw_table, planned_rows, sampling_plan
    from acne_lab.jobs.memory import advice_on_memory

    node = config["balance"]
    checked_psi(node["psi"])
    given = node["run"]
    fillable = [str(name) for name in given] if isinstance(given, dict) else table.classes
    counts, lacking = counts_and_deficits(node, table, fillable)
    if config["dry_run"]:
        print(plan_text(counts, lacking))
        return None
    plan = sampling_plan({"run": given, "counts": lacking, "runs_dir": config["runs_dir"]})
    if plan[0][0].classes != table.classes:
        raise ValueError(
            f"the GANs have learned the classes {', '.join(plan[0][0].classes)}, and the table has "
            f"{', '.join(table.classes)}: train them on the table"
        )
    if any(gan.num_channels == 4 for gan, _, _ in plan):
        raise ValueError("images with transparency cannot stand beside photographs: train the GAN on RGB")
    lineage = Lineage.merged(*(gan.lineage for gan, _, _ in plan))
    require_held_out(lineage, table, what=f"the GANs of balance.run={given}")
    inputs = [table.key, digest([lacking, node["psi"], node["seed"]])]
    inputs += [f"{severity}:{gan.key}" for gan, severity, _ in plan]
    with open_run(noted(config, table), job="balance", inputs=inputs) as run:
        if not run.done:
            print(plan_text(counts, lacking), flush=True)
            if config["num_threads"]:
                torch.set_num_threads(config["num_threads"])
            folder = run.path / "table"
            # At a GAN's resolution a JPEG shows its grid of 8 px, which photographs lose when they shrink to it.
            rows = planned_rows(plan, "png")
            rows["file_name"] = [image_name(run, table, row.severity, row.seed, ".png") for row in rows.itertuples()]
            with advice_on_memory(config):
                draw_table(plan, rows, {**config, "psi": node["psi"], "seed": node["seed"]}, folder)
            sha256 = [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in rows["file_name"]]
            rows = rows.assign(split="train", sha256=sha256)
            finish(run, config, ImageTable(root=folder, rows=rows, classes=table.classes), lineage, {})
        else:
            lineage.write(run.path / "table")
    return run


def supplement_run(config: dict, table: ImageTable) -> Run | None:
    """Images that others have published, from nobody knows which photographs."""
    from acne_lab.jobs.prepare import relink_images

    supplement = Supplement(config["balance"]["root"], classes=table.classes)
    counts = class_counts(table.rows, table.classes, count="all")
    text = plan_text(counts, supplement.collect(Path(), 1).rows["severity"].value_counts().to_dict())
    if config["dry_run"]:
        print(text)
        return None
    with open_run(noted(config, table), job="balance", inputs=[table.key, supplement.fingerprint()]) as run:
        if not run.done:
            print(text, flush=True)
            added = read_supplement(supplement.images_root, table, run.path / "table")
            finish(run, config, added, Lineage(known=False), {})
        relink_images(run.path / "table", supplement)
    return run


def require_counts(config: dict, table: ImageTable) -> None:
    """ValueError, before hours of work, if layout=acne04 asks for lists of images whose lesions nobody has counted."""
    kind, uncounted = config["balance"]["kind"], int(table.rows["lesions"].isna().sum())
    if kind != "edit" or config["edit"].get("gans"):
        what = f"balance={config['balance']['name']} adds images that have none"
    elif uncounted:
        what = f"{uncounted} of {table.root} have none"
    else:
        fold_of(table, config["folds"])  # it knows which there are
        return
    raise ValueError(
        f"ACNE04's lists have a lesion count for every image, and {what}: use the table itself (layout=table), or "
        "edits that count (balance=acnedit)"
    )


# ---- what the kinds share ----------------------------------------------------------------------------------


def counts_and_deficits(node: dict, table: ImageTable, fillable: list[str]) -> tuple[dict[str, int], dict[str, int]]:
    """Images of each class now, and how many each is to get."""
    counts = class_counts(table.rows, table.classes, count=node["count"])
    policy = {name: node[name] for name in ("targets", "ratio", "budget")}
    return counts, deficits(counts, fillable=list(fillable), **policy)


def digest(value: object) -> str:
    """Sixteen hex digits of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def noted(config: dict, table: ImageTable) -> dict:
    """What config.yaml says of the run; all that matters of it is hashed through the inputs."""
    return {
        "name": config["name"],
        "runs_dir": config["runs_dir"],
        "table": str(table.root.resolve()),
        "balance": config["balance"],
        "edit": config["edit"] if config["balance"]["kind"] == "edit" else None,
    }


def finish(run: Run, config: dict, written: ImageTable, lineage: Lineage, metrics: dict) -> None:
    """Write the table of added rows, whose ancestors it descends from, and the figures."""
    lineage.write(written.root)
    written.write()
    counts = written.counts().sum(axis=1)
    run.write_metrics({"num_images": len(written), "counts": counts.to_dict(), "table": written.key, **metrics})
    if config["logger"]:
        from acne_lab.tracking import log_and_finish

        log_and_finish(run_logger(config, run), {f"num_images/{name}": int(n) for name, n in counts.items()})


def lay_out(run: Run, config: dict, table: ImageTable, *, learned_from: Lineage) -> None:
    """Put the table and the added rows together as ACNE04 is laid out, for other people's code."""
    folder = run.path / "acne04"
    options = {"folds": config["folds"], "copy": config["copy"], "learned_from": learned_from}
    with FileLock(run.path / ".acne04.lock"):
        numbers = write_acne04(folder, table, ImageTable.read(run.path), **options)
    shown = ", ".join(f"{n} in trainval_{fold}" for fold, n in numbers.items())
    print(f"{folder}: added images: {shown}", flush=True)
