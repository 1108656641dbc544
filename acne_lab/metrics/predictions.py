"""What a grader said of every validation and test image, as one file: `predictions.parquet` of its run.

All figures can be recomputed from it: `grading.figures` of one grader, `statistics` of several. What the columns do not
say (the order of the classes, how probabilities become grades) travels in the schema's metadata as JSON. Reading takes
columns of text and numbers and nothing else; nothing in a file is ever executed.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from acne_lab.metrics.calibration import Decision

SPLITS = ("val", "test")
TEXT_COLUMNS = ("file_name", "subject", "split", "severity", "source")
COUNT_COLUMNS = ("lesions", "count", "count_from_grade")
METADATA = b"acne_lab"

Bands = tuple[int | None, ...]  # largest lesion count of each class, None for the last


@dataclass(frozen=True, eq=False)
class Predictions:
    """Predictions of one grader for N images.

    Args:
        frame: one row an image: file_name, subject ("" unknown), split (val | test), severity, source, lesions (true
            number, NaN unknown), p_<class> (in [0, 1], uncalibrated), count (the grader's own number of lesions, NaN
            without), count_from_grade (what its grade lets expect, NaN unknown), then any others.
        classes: the C severities, mild first.
        decision: how probabilities become grades.
        bands: largest lesion count of each class, None for the last; None: counts say nothing of grades.

    Raises:
        ValueError: no image, a column is missing, a probability is NaN or no probability, a severity is no class, an
            image is there twice.
    """

    frame: pd.DataFrame
    classes: tuple[str, ...]
    decision: Decision = field(default_factory=Decision)
    bands: Bands | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(self.classes))
        object.__setattr__(self, "bands", None if self.bands is None else tuple(self.bands))
        _check(self)

    def __len__(self) -> int:
        return len(self.frame)

    def where(self, keep: np.ndarray) -> "Predictions":
        """Those of the images where `keep` (bool [N], or indices) says so; there must be one."""
        rows = self.frame.iloc[np.arange(len(self))[keep]].reset_index(drop=True)
        return Predictions(rows, self.classes, self.decision, self.bands)

    def of(self, split: str) -> "Predictions":
        """Those of one split, "val" or "test"."""
        return self.where((self.frame["split"] == split).to_numpy())

    @cached_property
    def uncalibrated(self) -> np.ndarray:
        """float64 [N, C], as the grader gave them."""
        return self.frame[[f"p_{name}" for name in self.classes]].to_numpy(dtype=np.float64)

    @cached_property
    def probabilities(self) -> np.ndarray:
        """float64 [N, C], calibrated."""
        return self.decision.calibrated(self.uncalibrated)

    @cached_property
    def predicted(self) -> np.ndarray:
        """int64 [N]: the grade of each image as an index into `classes`."""
        return self.decision.predicted(self.uncalibrated)

    @cached_property
    def labels(self) -> np.ndarray:
        """int64 [N]: the true grade of each image as an index into `classes`."""
        return np.asarray(pd.Index(self.classes).get_indexer(self.frame["severity"]), dtype=np.int64)

    @cached_property
    def people(self) -> np.ndarray:
        """[N] names. An image of which nobody has told who is on it counts as a person of its own.

        Intervals over people are then too narrow by as much as people recur.
        """
        subject = self.frame["subject"].astype(str)
        return subject.where(subject != "", "image " + self.frame["file_name"].astype(str)).to_numpy(dtype=object)

    def counts(self, column: str) -> np.ndarray:
        """float64 [N] of one of COUNT_COLUMNS, NaN where it is unknown."""
        return self.frame[column].to_numpy(dtype=np.float64, na_value=np.nan)


def prediction_frame(
    rows: pd.DataFrame,
    probabilities: np.ndarray,
    counts: np.ndarray | None,
    *,
    classes: Sequence[str],
    decision: Decision,
    class_counts: np.ndarray | None = None,
) -> pd.DataFrame:
    """The frame of `Predictions`, of rows of an image table and what a grader said of them.

    Args:
        rows: N rows with file_name, subject, split, severity, source, lesions, then any columns to keep.
        probabilities: [N, C], uncalibrated.
        counts: [N] lesions, NaN unknown; None where the grader does not count.
        classes: the C severities, mild first.
        decision: count_from_grade is the expectation under calibrated probabilities.
        class_counts: [C] mean lesions of the training images of each class, see `mean_counts`; None: unknown.
    """
    probabilities = np.asarray(probabilities)
    by_grade = np.full(len(rows), np.nan)
    if class_counts is not None:
        by_grade = decision.calibrated(probabilities) @ np.asarray(class_counts, dtype=np.float64)
    first = [*TEXT_COLUMNS, "lesions"]
    frame = rows[first].reset_index(drop=True).astype({"lesions": "float64"})
    given = {f"p_{name}": probabilities[:, i] for i, name in enumerate(classes)}
    given |= {"count": np.nan if counts is None else np.asarray(counts, dtype=np.float64), "count_from_grade": by_grade}
    rest = rows.drop(columns=first).reset_index(drop=True)
    return pd.concat([frame.assign(**given), rest], axis=1)


def mean_counts(labels: np.ndarray, lesions: np.ndarray, num_classes: int) -> np.ndarray:
    """Mean lesions of the images of each class, float64 [C]; NaN for a class of which no image is counted.

    Args:
        labels: int [N].
        lesions: float [N], NaN where nobody has counted.
    """
    counted = ~np.isnan(lesions)
    number = np.bincount(labels[counted], minlength=num_classes)
    total = np.bincount(labels[counted], weights=lesions[counted], minlength=num_classes)
    return np.divide(total, number, out=np.full(num_classes, np.nan), where=number > 0)


def write_predictions(
    path: Path, frame: pd.DataFrame, *, classes: Sequence[str], decision: Decision, bands: Bands | None
) -> Predictions:
    """Write `predictions.parquet`: aside, then renamed. The same predictions give the same bytes.

    Args: as of `Predictions`, which is returned.

    Raises:
        ValueError: as `Predictions`, or a column holds neither text nor numbers; nothing is written then.
    """
    predictions = Predictions(frame.reset_index(drop=True), tuple(classes), decision, bands)
    about = {"classes": predictions.classes, "decision": asdict(decision), "bands": predictions.bands}
    try:
        table = pa.Table.from_pandas(predictions.frame, preserve_index=False)
    except pa.ArrowException as error:  # text and numbers in one column
        raise ValueError(f"predictions cannot be kept: {error}") from error
    _check_columns(table.schema)
    table = table.replace_schema_metadata({METADATA: json.dumps(about, allow_nan=False)})
    path = Path(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    parquet.write_table(table, aside)
    os.replace(aside, path)
    return predictions


def read_predictions(path: Path) -> Predictions:
    """Read what `write_predictions` has written.

    Raises:
        ValueError: it is no parquet file, or not one of predictions, or a damaged one.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} does not exist: give the predictions.parquet of a finished grader run")
    try:
        schema = parquet.read_schema(path)
        _check_columns(schema)
        about = json.loads((schema.metadata or {})[METADATA])
        decision = Decision(**about["decision"])
        # Only types of Arrow's own, and no word of pandas' metadata: what a column becomes is decided here.
        frame = parquet.read_table(path).to_pandas(ignore_metadata=True)
        return Predictions(frame, tuple(about["classes"]), decision, about["bands"])
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} does not hold a grader's predictions ({error}): give the predictions.parquet of a finished run, "
            f"or remove {path.parent} and repeat what made it"
        ) from error


def _check_columns(schema: pa.Schema) -> None:
    if foreign := [field.name for field in schema if not _is_plain(field.type)]:
        raise ValueError(f"the columns {foreign} hold neither text nor numbers")


def _is_plain(kind: pa.DataType) -> bool:
    types = pa.types
    tests = (types.is_string, types.is_large_string, types.is_floating, types.is_integer, types.is_boolean)
    return not isinstance(kind, pa.BaseExtensionType) and any(test(kind) for test in (*tests, types.is_null))


def _check(predictions: Predictions) -> None:
    frame, classes, bands = predictions.frame, predictions.classes, predictions.bands
    needed = [*TEXT_COLUMNS, *COUNT_COLUMNS, *(f"p_{name}" for name in classes)]
    if missing := [name for name in needed if name not in frame.columns]:
        raise ValueError(f"predictions have no column {', '.join(missing)}: were they made for the classes {classes}?")
    if len(frame) == 0:
        raise ValueError("there is no image to grade: give this split at least one")
    check_probabilities(predictions.uncalibrated)
    unknown = sorted(set(frame["severity"].astype(str)) - set(classes))
    if unknown:
        raise ValueError(f"the severities {unknown} are none of {list(classes)}: images without one cannot be graded")
    if strange := sorted(set(frame["split"].astype(str)) - set(SPLITS)):
        raise ValueError(f"predictions are of the splits {SPLITS}, not of {strange}")
    if (twice := frame.duplicated(["split", "file_name"])).any():
        raise ValueError(f"{int(twice.sum())} images are there twice, such as {frame['file_name'][twice].iloc[0]}")
    for name in COUNT_COLUMNS:
        if np.isinf(predictions.counts(name)).any():
            raise ValueError(f"{name} holds infinite numbers of lesions: lower the learning rate")
    for weights, what in ((predictions.decision.weights, "class weights"), (bands, "bands")):
        if weights is not None and len(weights) != len(classes):
            raise ValueError(f"{len(weights)} {what} for the {len(classes)} classes {list(classes)}: give one for each")
    if bands is not None and not _rise(bands):
        raise ValueError(f"bands are the largest counts of all classes but the last, rising, then None; not {bands}")


def _rise(bands: Bands) -> bool:
    *ends, last = bands
    return last is None and all(isinstance(end, int) for end in ends) and ends == sorted(set(ends))


def check_probabilities(probabilities: np.ndarray) -> None:
    """Raise ValueError where a row [N, C] holds NaN or is no distribution."""
    if (bad := int((~np.isfinite(probabilities)).any(axis=1).sum())) > 0:
        raise ValueError(f"{bad} of {len(probabilities)} images have NaN probabilities: lower the learning rate")
    far = np.abs(probabilities.sum(axis=1) - 1) > 1e-3  # half precision, and rounding of files
    if (bad := int((far | (probabilities < 0).any(axis=1)).sum())) > 0:
        raise ValueError(f"{bad} of {len(probabilities)} rows are no probabilities: they must be >= 0 with a sum of 1")
