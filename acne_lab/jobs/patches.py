"""What `evaluate` measures on photographs: each edit beside its parent, and patches around lesions, real and edited."""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from tqdm import tqdm

from acne_lab.data.photo import read_photo
from acne_lab.data.table import ImageTable
from acne_lab.edit.encoding import save_like
from acne_lab.grade.backbone import PACKAGED, build_backbone, data_config
from acne_lab.metrics.features import PatchFeatures
from acne_lab.metrics.realism import ColourShift, Seam, added_spots, colour_shift, lesion_patch, seam

SAME_BOX = 0.51  # px: boxes of an edit that are this near to one of its parent's were there before
BATCH = 64


@dataclass(frozen=True)
class EditedPhoto:
    """An edit and the photograph it was made from.

    Args:
        row: of the edited table.
        before, after: uint8 [H, W, 3]; the first compressed as the second is, see `unedited`.
        mask: bool [H, W], where the edit may have changed something.
        boxes: float [N, 4], the lesions it has added.
        own: float [M, 4], the lesions that `before` has, as far as the table lists them.
        lists_lesions: False where the edit keeps no list, and `boxes` are the red spots that were found.
    """

    row: dict
    before: np.ndarray
    after: np.ndarray
    mask: np.ndarray
    boxes: np.ndarray
    own: np.ndarray
    lists_lesions: bool

    @property
    def seam(self) -> Seam | None:
        return seam(self.before, self.after, self.mask)

    @property
    def colour_shift(self) -> ColourShift | None:
        return colour_shift(self.before, self.after, self.mask)


@dataclass
class LesionPatches:
    """Patches around lesions of one set, collected photograph by photograph.

    Args:
        side: of a patch, px.
        per_photo: at most so many of one photograph, drawn at random.
        seed: of that draw; the other half of it is the photograph's name.
    """

    side: int
    per_photo: int
    seed: int
    pixels: list[np.ndarray] = field(default_factory=list)
    rows: list[dict] = field(default_factory=list)

    def add(self, photo: np.ndarray, boxes: np.ndarray, row: dict) -> None:
        """Cut those of a photograph whose row has file_name, subject and severity."""
        rng = np.random.default_rng((self.seed, zlib.crc32(row["file_name"].encode())))
        taken = 0
        for index in rng.permutation(len(boxes)):
            patch = lesion_patch(photo, boxes[index], side=self.side) if taken < self.per_photo else None
            if patch is None:
                continue
            taken += 1
            self.pixels.append(patch)
            x0, y0, x1, y1 = (round(float(k), 2) for k in boxes[index])
            about = {name: row[name] for name in ("file_name", "subject", "severity")}
            self.rows.append({**about, "x0": x0, "y0": y0, "x1": x1, "y1": y1, "size": max(x1 - x0, y1 - y0)})

    def only(self, indices: np.ndarray) -> tuple[np.ndarray, pd.DataFrame]:
        """Pixels uint8 [K, S, S, 3] and rows of these."""
        pixels = np.stack([self.pixels[i] for i in indices]) if len(indices) else np.empty((0, self.side, self.side, 3))
        return pixels.astype(np.uint8), self.frame.iloc[indices].reset_index(drop=True)

    @property
    def frame(self) -> pd.DataFrame:
        columns = ("file_name", "subject", "severity", "x0", "y0", "x1", "y1", "size")
        return pd.DataFrame(self.rows, columns=list(columns))


def edited_photos(edited: ImageTable, source: ImageTable, rows: pd.DataFrame) -> Iterator[EditedPhoto]:
    """The edits of these rows, one after the other, with a progress bar.

    Raises:
        ValueError: an edit and its parent, or its mask, differ in size.
    """
    for row in tqdm(rows.to_dict("records"), desc="edits", unit="img"):
        before = unedited(source.root / row["parent"])
        after = np.asarray(read_photo(edited.root / row["file_name"]))
        with Image.open(edited.root / row["mask"]) as picture:
            mask = np.asarray(picture.convert("L")) > 127
        if not before.shape[:2] == after.shape[:2] == mask.shape:
            raise ValueError(
                f"{row['file_name']} has {after.shape[1]} x {after.shape[0]} px, its parent {row['parent']} "
                f"{before.shape[1]} x {before.shape[0]} and its mask {mask.shape[1]} x {mask.shape[0]}: source= must "
                "name the table that was edited"
            )
        listed = pd.notna(row.get("lesions_added"))
        boxes = added_boxes(edited, source, row, mask) if listed else added_spots(before, after, mask)
        own = boxes_of(source, row["parent"])
        yield EditedPhoto(row=row, before=before, after=after, mask=mask, boxes=boxes, own=own, lists_lesions=listed)


def unedited(path: Path) -> np.ndarray:
    """A photograph, uint8 [H, W, 3], as it would be written by an edit that changes nothing.

    An edit of a JPEG has been compressed twice. Unless the photographs that it is compared with have been as well, a
    classifier finds that and calls it acne.
    """
    photo = np.asarray(read_photo(path))
    file = BytesIO()
    save_like(photo, path, file)
    return np.asarray(Image.open(file).convert("RGB"))


def added_boxes(edited: ImageTable, source: ImageTable, row: dict, mask: np.ndarray) -> np.ndarray:
    """The boxes [N, 4] of an edit that its parent has not and whose centres are where the edit was allowed to work."""
    now, old = boxes_of(edited, row["file_name"]), boxes_of(source, row["parent"])
    if len(old) and len(now):
        now = now[np.abs(now[:, None] - old[None]).max(axis=2).min(axis=1) > SAME_BOX]
    x = np.clip((now[:, 0] + now[:, 2]) / 2, 0, mask.shape[1] - 1).astype(int)
    y = np.clip((now[:, 1] + now[:, 3]) / 2, 0, mask.shape[0] - 1).astype(int)
    return now[mask[y, x]]


def boxes_of(table: ImageTable, file_name: str) -> np.ndarray:
    """Boxes [N, 4] of one image; none where lesions were not located."""
    if table.boxes is None:
        return np.empty((0, 4))
    return table.boxes.loc[table.boxes["file_name"] == file_name, ["x0", "y0", "x1", "y1"]].to_numpy()


def spread(rows: pd.DataFrame, num: int, *, seed: int) -> pd.DataFrame:
    """At most `num` of the rows: a second photograph of a person only where everybody has one."""
    shuffled = rows.sample(frac=1, random_state=seed)
    turn = shuffled.groupby("subject").cumcount()
    return shuffled.loc[turn.sort_values(kind="stable").index].head(num).sort_index()


@torch.inference_mode()
def features_of(patches: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(content [N, C], texture [N, D]) of patches uint8 [N, S, S, 3], as the packaged efficientnet_lite0 sees them."""
    backbone = build_backbone(PACKAGED, pretrained="package")
    about = data_config(backbone)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = PatchFeatures(backbone, mean=about["mean"], std=about["std"]).to(device)
    parts = []
    for start in tqdm(range(0, len(patches), BATCH), desc="features", unit="batch"):
        images = torch.from_numpy(patches[start : start + BATCH]).to(device).permute(0, 3, 1, 2)
        parts.append([part.cpu() for part in network(images.float() / 127.5 - 1)])
    content, texture = (torch.cat(part).numpy() for part in zip(*parts))
    return content, texture
