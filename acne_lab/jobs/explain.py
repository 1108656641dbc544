"""`acne-lab explain run=GRADER`: where a grader looks, in heat maps and in figures.

Whether attribution lies on lesions is counted beside three things: their area (chance), the lesions of other people of
the same severity (what looking at faces is worth), and the same network with random weights (what the method shows of
a network that has learned nothing). The validation photographs are shown by default: the test split is opened once.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from acne_lab.build import run_logger
from acne_lab.data.photo import fit_boxes
from acne_lab.data.slices import photo_sizes, slice_columns
from acne_lab.data.table import SPLITS, ImageTable
from acne_lab.grade.explain import SCORES, attributions, randomised, seen_by_backbone, stage_of, view
from acne_lab.grade.module import Grader
from acne_lab.jobs.graders import load_grader
from acne_lab.jobs.patches import boxes_of, spread
from acne_lab.jobs.prepare import table_of
from acne_lab.jobs.training import packed
from acne_lab.metrics.attribution import Hits, coverage, enlarged, hit_rate, hits, hits_elsewhere, pointing_rate
from acne_lab.metrics.two_sample import MIN_SUBJECTS, Estimate
from acne_lab.report.explain import Shown, write_explanation
from acne_lab.runs import Run, file_key, find_table, open_run
from acne_lab.tracking import log_and_finish


@dataclass(frozen=True, eq=False)
class Photographs:
    """What a grader is asked about.

    Args:
        table: N photographs.
        images: float32 [N, 3, R, R], normalised for the grader.
        boxes: of each the lesions, float [M, 4] in sides of what the backbone sees; None: nobody has located them.
    """

    table: ImageTable
    images: Tensor
    boxes: list[np.ndarray | None]

    @property
    def located(self) -> np.ndarray:
        """bool [N]: there is a lesion, and it is seen."""
        return np.array([boxes is not None and bool(coverage(boxes).any()) for boxes in self.boxes])


def explain(config: dict) -> Run:
    """Explain the grader `config["run"]`; the run holds metrics.json, attributions.csv, samples/, report.html."""
    for name, least in (("num_images", 1), ("num_random", 1), ("num_shown", 0), ("batch_size", 1)):
        if config[name] < least:
            raise ValueError(f"{name} must be at least {least}, not {config[name]}")
    grader, of, _ = load_grader(config["run"], config["runs_dir"])
    table = photographs_of(of, config)
    if list(table.classes) != list(grader.classes):
        raise ValueError(
            f"{table.root} has the classes {list(table.classes)}, the grader {list(grader.classes)}: "
            "give table=<one with the grader's classes>"
        )
    about = {name: value for name, value in config.items() if name != "table"}  # its content is in the key
    inputs = [of.key, table.key, file_key(table.root / "metadata.csv")]
    with open_run(about, job="explain", inputs=inputs) as run:
        if run.done:
            return run
        if config["num_threads"]:
            torch.set_num_threads(config["num_threads"])
        grader.to("cuda" if torch.cuda.is_available() else "cpu")
        photos = prepared_photographs(grader, table, of, config)
        side = seen_by_backbone(grader, photos.images[:1].to(grader.device)).shape[-1]
        stage = stage_of(grader.backbone, side) if config["stage"] is None else config["stage"]
        about = {"stage": stage, "batch_size": config["batch_size"]}
        probabilities, maps = explained(grader, photos, **about, what="grader")
        random = []
        for number in range(config["num_random"]):
            network = randomised(grader, seed=config["seed"] + number)
            random.append(explained(network, photos, **about, what=f"random weights {number + 1}")[1]["severity"])
        rows = graded_rows(photos.table, probabilities)
        found, of_each = figures(photos, rows, maps, random, seed=config["seed"])
        rows = pd.concat([rows, of_each], axis=1)
        rows.merge(slice_columns(photos.table), on="file_name").to_csv(run.path / "attributions.csv", index=False)
        metrics = {
            "grader": of.path.name,
            "backbone": of.config["model"]["backbone"],
            "split": config["split"],
            "classes": list(table.classes),
            "num_images": len(rows),
            "num_subjects": int(rows["subject"].nunique()),
            "num_located": int(photos.located.sum()),
            "num_right": int(rows["right"].sum()),
            "stage": stage,
            "num_stages": len(grader.backbone.feature_info),
            "input_side": side,
            "map_side": maps["severity"].shape[1],
            "lesion_px": median_lesion(photos, side),
            "num_random": len(random),
            "only_drawn": photos.table.is_drawn,
            "explain": found,
        }
        run.write_metrics(metrics)
        chosen = chosen_rows(rows, config["num_shown"])
        write_explanation(run.path, metrics, shown(grader, photos, rows, maps, random[0], chosen))
        log_and_finish(run_logger(config, run), logged(found))
    return run


def photographs_of(of: Run, config: dict) -> ImageTable:
    """The rows of the split that is asked for, in the table that the grader knows or in the one that is given."""
    if config["split"] not in SPLITS:
        raise ValueError(f"split must be {', '.join(SPLITS)}, not {config['split']}")
    reference = config["table"] or (of.config["test"] if config["split"] == "test" else None)
    if reference:
        table = ImageTable.read(find_table(reference, config["runs_dir"]))
    else:
        table = table_of({**of.config, "runs_dir": config["runs_dir"]})
    rows = table.select(split=config["split"])
    rows = rows.only(rows.rows["severity"] != "")
    if len(rows) == 0:
        raise ValueError(f"{table.root} has no {config['split']} photograph with a severity: choose another split")
    return rows


def prepared_photographs(grader: Grader, table: ImageTable, of: Run, config: dict) -> Photographs:
    """Pixels as the grader gets them, and lesions where they are seen on them; `num_images` of the table's rows."""
    pixels = packed(table, of.config)
    chosen = spread(table.rows, config["num_images"], seed=config["seed"]).index
    keep = table.rows.index.isin(chosen)
    table, pixels = table.only(pd.Series(keep)), pixels[keep]
    data = grader.data_config
    mean, std = (torch.tensor(data[name]).view(3, 1, 1) for name in ("mean", "std"))
    images = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - mean) / std
    resolution, fit = of.config["data"]["resolution"], of.config["data"]["fit"]
    seen = view(grader, resolution)
    boxes = []
    for name, size in zip(table.rows["file_name"], photo_sizes(table)):
        known = None if table.boxes is None else boxes_of(table, name)
        if known is not None:
            known = seen.boxes(fit_boxes(known, size, resolution, fit) / resolution)
        boxes.append(known)
    return Photographs(table, images, boxes)


def explained(
    grader: Grader, photos: Photographs, *, stage: int, batch_size: int, what: str
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """`attributions` of all photographs."""
    probabilities, maps = [], {name: [] for name in SCORES}
    with tqdm(total=len(photos.images), desc=f"explain, {what}", unit="img") as bar:
        for images in photos.images.split(batch_size):
            p, found = attributions(grader, images.to(grader.device), stage=stage)
            probabilities.append(p)
            for name in SCORES:
                maps[name].append(found[name])
            bar.update(len(images))
    return np.concatenate(probabilities), {name: np.concatenate(parts) for name, parts in maps.items()}


def graded_rows(table: ImageTable, probabilities: np.ndarray) -> pd.DataFrame:
    """file_name, subject, severity, lesions, predicted, confidence (its probability) and whether it is right."""
    rows = table.rows[["file_name", "subject", "severity", "lesions"]].reset_index(drop=True)
    predicted = np.asarray(table.classes, dtype=object)[probabilities.argmax(axis=1)]
    return rows.assign(
        predicted=predicted, confidence=probabilities.max(axis=1), right=predicted == rows["severity"].to_numpy()
    )


def figures(
    photos: Photographs,
    rows: pd.DataFrame,
    maps: Mapping[str, np.ndarray],
    random: list[np.ndarray],
    *,
    seed: int,
) -> tuple[dict, pd.DataFrame]:
    """What metrics.json says of each score and group of photographs, and columns for each photograph.

    Photographs whose lesions nobody has located, or without any, have no hit rate; without such there is no figure.
    """
    n, located = len(rows), photos.located
    columns = pd.DataFrame(index=rows.index)
    if not located.any():
        return {}, columns
    on = np.stack([coverage(boxes) for boxes, there in zip(photos.boxes, located) if there])
    severity, subject = (rows.loc[located, name].to_numpy() for name in ("severity", "subject"))
    controls = _mean_hits([hits(enlarged(each[located]), on) for each in random])
    groups = {"all": np.ones(len(on), dtype=bool)}
    groups |= {name: severity == name for name in photos.table.classes}
    groups |= {"right": rows.loc[located, "right"].to_numpy(), "wrong": ~rows.loc[located, "right"].to_numpy()}
    found = {}
    for score, each in maps.items():
        large = enlarged(each[located])
        own, others = hits(large, on), hits_elsewhere(large, on, severity, subject)
        for name, values in (("inside", own.inside), ("pointed", own.pointed), ("area", own.area)):
            column = np.full(n, np.nan)
            column[located] = values
            columns["area" if name == "area" else f"{score}_{name}"] = column
        found[score] = {
            group: _figures_of(own.rows(keep), others.rows(keep), controls.rows(keep), subject[keep], seed=seed)
            for group, keep in groups.items()
            if keep.any()
        }
    return found, columns


def _figures_of(own: Hits, others: Hits, random: Hits, subjects: np.ndarray, *, seed: int) -> dict:
    """Of one group of photographs: numbers of them, then figures as value, low and high (None: too few people)."""
    silent = np.isnan(own.inside)
    both = ~silent & ~np.isnan(others.inside)
    found = {
        "num_images": len(silent),
        "num_subjects": len(set(subjects)),
        "num_silent": int(silent.sum()),  # maps without any attribution
        "area": float(own.area.mean()),
    }
    own_where_both, others = own.rows(both), others.rows(both)
    estimates = {
        "hit_rate": _of(hit_rate, own, ~silent, subjects, seed),
        "hit_rate_elsewhere": _of(hit_rate, others, slice(None), subjects[both], seed),
        "hit_rate_random": _of(hit_rate, random, ~np.isnan(random.inside), subjects, seed),
        "pointing": _of(pointing_rate, own, ~silent, subjects, seed),
        "pointing_elsewhere": _of(pointing_rate, others, slice(None), subjects[both], seed),
        "pointing_random": _of(pointing_rate, random, ~np.isnan(random.pointed), subjects, seed),
    }
    if (elsewhere := estimates["hit_rate_elsewhere"]) is not None:
        estimates["beyond_elsewhere"] = hit_rate(own_where_both, subjects[both], seed=seed).over(elsewhere)
    known = {name: _plain(estimate) for name, estimate in estimates.items() if estimate is not None}
    return found | known
