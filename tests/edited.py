"""An edited table as `balance` leaves it, made the plain way: discs, or lesions of other people, put onto toy faces."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from PIL import Image

from acne_lab.data.lineage import Lineage
from acne_lab.data.table import ImageTable

NUM_ADDED = 6


def edited_run(
    runs_dir: Path, source: ImageTable, *, how: str, num: int, severity: str = "severe", name: str = ""
) -> Path:
    """The folder of a finished balance run with `num` edits of training faces.

    Args:
        how: "discs" (flat red, hard edges), "copies" (lesions of training faces, soft edges, at the colour of the skin
            around them), "unlisted" (as copies, but the edit does not say where or how many) or "nothing" (the
            photograph as it is, whose own lesions are called added).
    """
    rng = np.random.default_rng(0)
    run = runs_dir / "balance" / f"{name or how}-0123456789"
    root = run / "table"
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    training = source.select(split="train")
    by_photo = {file: group.iloc[:, 1:].to_numpy() for file, group in training.boxes.groupby("file_name")}
    parents = training.rows.groupby("subject").head(3)
    parents = parents[parents["file_name"].isin(by_photo)].sample(num, random_state=0)
    rows, boxes = [], []
    for number, parent in enumerate(parents.to_dict("records")):
        photo = np.asarray(Image.open(source.root / parent["file_name"]).convert("RGB"))
        own = by_photo[parent["file_name"]]
        after, mask, added = photo.copy(), np.zeros(photo.shape[:2], dtype=bool), []
        for _ in range(NUM_ADDED if how != "nothing" else 0):
            donor = rng.choice([file for file in by_photo if file != parent["file_name"]])
            box = by_photo[donor][rng.integers(len(by_photo[donor]))]
            place = own[rng.integers(len(own))]
            centre = (place[:2] + place[2:]) / 2 + rng.normal(0, 0.03 * len(photo), 2)
            lesion = None if how == "discs" else np.asarray(Image.open(source.root / donor).convert("RGB"))
            done = put(after, mask, centre, box, lesion)
            if done is not None:
                added.append(done)
        if how == "nothing":
            added = list(own + np.array([1.0, 0.0, 1.0, 0.0]))  # by a pixel, or they would be the parent's
            mask[5:-5, 5:-5] = True
        stem = f"edit{number:04d}"
        Image.fromarray(after).save(root / "images" / f"{stem}.png")
        Image.fromarray(mask).save(root / "masks" / f"{stem}.png")
        before = len(own)
        rows.append(
            {
                "file_name": f"images/{stem}.png", "severity": severity, "lesions": before + len(added),
                "subject": parent["subject"], "split": "train", "source": "edited", "parent": parent["file_name"],
                "sha256": f"{how}{number}", "edit": name or how, "mask": f"masks/{stem}.png", "seed": number,
                "lesions_before": before, "lesions_added": len(added), "parameters": json.dumps({}),
            }
        )  # fmt: skip
        if how == "unlisted":
            rows[-1] |= {"lesions": None, "lesions_added": None}
            added = []
        boxes += [(f"images/{stem}.png", *box) for box in (*own, *added)]
    frame = pd.DataFrame(boxes, columns=["file_name", "x0", "y0", "x1", "y1"])
    ImageTable(root=root, rows=pd.DataFrame(rows), classes=source.classes, report={}, boxes=frame).write()
    Lineage.of(training).write(root)
    (run / "config.yaml").write_text(yaml.safe_dump({"table": str(source.root), "name": how}))
    (run / "DONE").write_text("{}")
    return run


def put(after: np.ndarray, mask: np.ndarray, centre: np.ndarray, box: np.ndarray, lesion: np.ndarray | None):
    """Put a disc, or the lesion in `box` of another photograph, at `centre`; returns its box, None outside."""
    width, height = max(3.0, box[2] - box[0]), max(3.0, box[3] - box[1])
    x, y = np.round(centre).astype(int)
    reach = int(np.ceil(max(width, height)))
    donor = np.round((box[:2] + box[2:]) / 2).astype(int)
    for column, row in ((x, y), donor):
        if min(column, row) < reach or max(column, row) >= len(after) - reach:
            return None
    here = (slice(y - reach, y + reach + 1), slice(x - reach, x + reach + 1))
    v, u = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    radius = np.hypot(u / width, v / height) * 2  # 1 at the lesion's border
    if lesion is None:
        alpha, new = (radius <= 1).astype(float)[..., None], np.array([190.0, 60.0, 60.0])
    else:
        there = (slice(donor[1] - reach, donor[1] + reach + 1), slice(donor[0] - reach, donor[0] + reach + 1))
        alpha = np.clip(2.0 - radius, 0, 1)[..., None] ** 1.5
        ring = radius > 1.5
        new = lesion[there] * (after[here][ring].mean(0) / np.maximum(lesion[there][ring].mean(0), 1))
    after[here] = np.clip(np.round(after[here] * (1 - alpha) + new * alpha), 0, 255)
    mask[here] |= radius <= 2
    return [x + 0.5 - width / 2, y + 0.5 - height / 2, x + 0.5 + width / 2, y + 0.5 + height / 2]
