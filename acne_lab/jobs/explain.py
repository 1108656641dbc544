"""`acne-lab explain run=GRADER`: where a grader looks, in heat maps and in figures.

Whether attribution lies on lesions is counted beside three things: their area (chance), the lesions of other people of
the same severity (what looking at faces is worth), and the same network with random weights (what the method shows of
a network that has learned nothing). The validation photographs are shown by default: the test split is opened once.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
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
from acne_lab.jobs.graders import load_grader, require_classes
from acne_lab.jobs.patches import boxes_of, spread
from acne_lab.jobs.prepare import table_of
from acne_lab.jobs.training import packed
from acne_lab.metrics.attribution import Hits, coverage, enlarged, hit_rate, hits, hits_elsewhere, pointing_rate
from acne_lab.metrics.calibration import Decision
from acne_lab.metrics.predictions import Predictions, prediction_frame
from acne_lab.metrics.slices import slice_figures
from acne_lab.metrics.two_sample import Estimate
from acne_lab.report.explain import Shown, write_explanation
from acne_lab.runs import Run, file_key, find_table, open_run
from acne_lab.tracking import log_and_finish

STATISTICS = 32  # photographs from which random networks take those of their batch normalisation
LEAST_PEOPLE = 8  # an interval over fewer is a matter of luck itself


@dataclass(frozen=True, eq=False)
class Photographs:
    """What a grader is asked about.

    Args:
        table: N photographs.
        pixels: uint8 [N, R, R, 3].
        boxes: of each the lesions, float [M, 4] in sides of what the backbone sees; None: nobody has located them.
    """

    table: ImageTable
    pixels: np.ndarray
    boxes: list[np.ndarray | None]

    def batch(self, chosen: slice, grader: Grader) -> Tensor:
        """Some of the photographs, [B, 3, R, R], normalised for the grader and on its device."""
        mean, std = _normalisation(grader)
        images = torch.from_numpy(self.pixels[chosen]).permute(0, 3, 1, 2).float() / 255
        return ((images - mean) / std).to(grader.device)

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
    require_classes(grader, table)
    about = {name: value for name, value in config.items() if name != "table"}  # its content is in the key
    inputs = [of.key, table.key, file_key(table.root / "metadata.csv")]
    with open_run(about, job="explain", inputs=inputs) as run:
        if run.done:
            return run
        if config["num_threads"]:
            torch.set_num_threads(config["num_threads"])
        grader.to("cuda" if torch.cuda.is_available() else "cpu")
        photos = prepared_photographs(grader, table, of, config)
        side = seen_by_backbone(grader, photos.batch(slice(1), grader)).shape[-1]
        stage = stage_of(grader.backbone, side) if config["backbone_stage"] is None else config["backbone_stage"]
        decision = Decision(**of.metrics.get("decision", {}))
        about = {"stage": stage, "batch_size": config["batch_size"], "decision": decision}
        probabilities, maps = explained(grader, photos, **about, what="grader")
        random = []
        for number in range(config["num_random"]):
            network = randomised(grader, photos.batch(slice(STATISTICS), grader), seed=config["seed"] + number)
            random.append(explained(network, photos, **about, what=f"random weights {number + 1}")[1]["severity"])
        rows = graded_rows(photos.table, probabilities, decision)
        found, of_each = figures(photos, rows, maps, random, seed=config["seed"])
        rows = pd.concat([rows, of_each], axis=1)
        slices = slice_columns(photos.table)
        rows.merge(slices, on="file_name").to_csv(run.path / "attributions.csv", index=False)
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
            "slices": figures_of_slices(photos.table, slices, probabilities, decision, seed=config["seed"]),
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
    resolution, fit = of.config["data"]["resolution"], of.config["data"]["fit"]
    seen = view(grader, resolution)
    boxes = []
    for name, size in zip(table.rows["file_name"], photo_sizes(table)):
        known = None if table.boxes is None else boxes_of(table, name)
        if known is not None:
            known = seen.boxes(fit_boxes(known, size, resolution, fit) / resolution)
        boxes.append(known)
    return Photographs(table, pixels, boxes)


def explained(
    grader: Grader, photos: Photographs, *, stage: int, batch_size: int, decision: Decision, what: str
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """`attributions` of all photographs."""
    probabilities, maps = [], {name: [] for name in SCORES}
    with tqdm(total=len(photos.pixels), desc=f"explain, {what}", unit="img") as bar:
        for start in range(0, len(photos.pixels), batch_size):
            images = photos.batch(slice(start, start + batch_size), grader)
            p, found = attributions(grader, images, stage=stage, decision=decision)
            probabilities.append(p)
            for name in SCORES:
                maps[name].append(found[name])
            bar.update(len(images))
    return np.concatenate(probabilities), {name: np.concatenate(parts) for name, parts in maps.items()}


def graded_rows(table: ImageTable, probabilities: np.ndarray, decision: Decision) -> pd.DataFrame:
    """file_name, subject, severity, lesions, predicted, confidence (its probability) and whether it is right."""
    grades = decision.predicted(probabilities)
    rows = table.rows[["file_name", "subject", "severity", "lesions"]].reset_index(drop=True)
    predicted = np.asarray(table.classes, dtype=object)[grades]
    return rows.assign(
        predicted=predicted,
        confidence=decision.calibrated(probabilities)[np.arange(len(rows)), grades],
        right=predicted == rows["severity"].to_numpy(),
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
    located = photos.located
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
            column = np.full(len(rows), np.nan)
            column[located] = values
            columns["area" if name == "area" else f"{score}_{name}"] = column
        found[score] = {
            group: _figures_of(own.rows(keep), others.rows(keep), controls.rows(keep), subject[keep], seed=seed)
            for group, keep in groups.items()
            if keep.any()
        }
    return found, columns


def figures_of_slices(
    table: ImageTable, slices: pd.DataFrame, probabilities: np.ndarray, decision: Decision, *, seed: int
) -> list[dict]:
    """`slice_figures` of these photographs as metrics.json has them, None for NaN."""
    columns = ["file_name", "subject", "split", "severity", "source", "lesions"]
    rows = table.rows[columns].reset_index(drop=True)
    rows = pd.concat([rows, slices.drop(columns=["file_name", "source"])], axis=1)
    frame = prediction_frame(rows, probabilities, None, classes=table.classes, decision=decision)
    found = slice_figures(Predictions(frame, table.classes, decision), seed=seed)
    return found.astype(object).where(found.notna(), None).to_dict("records")


def _figures_of(own: Hits, others: Hits, random: Hits, subjects: np.ndarray, *, seed: int) -> dict:
    """Of one group of photographs: numbers of them, and figures as {value, low, high} (None: it cannot be told)."""

    def estimate(rate: Callable, found: Hits) -> Estimate | None:
        known = ~np.isnan(found.inside)
        return rate(found.rows(known), subjects[known], seed=seed) if known.any() else None

    estimates = {"hit_rate": estimate(hit_rate, own), "pointing": estimate(pointing_rate, own)}
    for name, control in (("elsewhere", others), ("random", random)):
        estimates[f"hit_rate_{name}"] = estimate(hit_rate, control)
        estimates[f"pointing_{name}"] = estimate(pointing_rate, control)
    if (elsewhere := estimates["hit_rate_elsewhere"]) is not None and elsewhere.value > 0:
        same_people = estimate(hit_rate, Hits(own.inside + 0 * others.inside, own.area, own.pointed))
        estimates["beyond_elsewhere"] = same_people.over(elsewhere)
    enough = len(set(subjects)) >= LEAST_PEOPLE
    return {
        "num_images": len(subjects),
        "num_subjects": len(set(subjects)),
        "num_silent": int(np.isnan(own.inside).sum()),  # maps without any attribution
        "area": float(own.area.mean()),
        **{name: _plain(each, enough=enough) for name, each in estimates.items() if each is not None},
    }


def _plain(estimate: Estimate, *, enough: bool) -> dict:
    interval = estimate.interval
    tells = enough and interval.low < interval.high  # else it is the same whoever is drawn
    return asdict(interval) if tells else {"value": interval.value, "low": None, "high": None}


def _mean_hits(each: Sequence[Hits]) -> Hits:
    """Of several networks on the same photographs; NaN where all of their maps are empty."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of an empty mean, which is NaN as it should
        inside, pointed = (np.nanmean([getattr(hits, name) for hits in each], axis=0) for name in ("inside", "pointed"))
    return Hits(inside, each[0].area, pointed)


def median_lesion(photos: Photographs, side: int) -> float | None:
    """Diameter of the median lesion in px of what the backbone sees."""
    boxes = np.concatenate([each for each in photos.boxes if each is not None] or [np.empty((0, 4))])
    if not len(boxes):
        return None
    return float(np.median(np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))) * side)


def chosen_rows(rows: pd.DataFrame, num: int) -> list[int]:
    """Positions of the photographs on the page: of each severity `num` graded right and `num` not, evenly spread."""
    chosen = []
    for _, group in rows.groupby(["severity", "right"]):
        chosen += group.index[np.linspace(0, len(group) - 1, min(num, len(group))).round().astype(int)].tolist()
    return chosen


def shown(
    grader: Grader,
    photos: Photographs,
    rows: pd.DataFrame,
    maps: Mapping[str, np.ndarray],
    random: np.ndarray,
    chosen: list[int],
) -> list[Shown]:
    """The chosen photographs for the page, as the backbone sees them."""
    mean, std = _normalisation(grader)
    found = []
    for i in chosen:
        seen = seen_by_backbone(grader, photos.batch(slice(i, i + 1), grader))[0].cpu()
        pixels = ((seen * std + mean).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
        heat = {**{name: maps[name][i] for name in SCORES}, "random": random[i]}
        large = {name: enlarged(each[None])[0] for name, each in heat.items()}
        found.append(Shown(rows.iloc[i].to_dict(), pixels, large, photos.boxes[i]))
    return found


def _normalisation(grader: Grader) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [3, 1, 1] of pixels in 0..1, as the backbone wants them."""
    return tuple(torch.tensor(grader.data_config[name]).view(3, 1, 1) for name in ("mean", "std"))


def logged(found: Mapping[str, Mapping]) -> dict[str, float]:
    """Numbers for the logger; pictures of photographs stay here."""
    names = ("hit_rate", "hit_rate_elsewhere", "hit_rate_random", "pointing", "area")
    return {
        f"explain/{score}/{name}": value["value"] if isinstance(value, dict) else value
        for score, groups in found.items()
        for name in names
        if (value := groups["all"].get(name)) is not None
    }
