"""What figures and slices are called, and how a figure is written: one name of each for every page, table and card."""

from typing import NamedTuple


class Kind(NamedTuple):
    """A figure's names, how it is written, and which end of it is the good one.

    Args:
        title: as a sentence or a plot calls it.
        head: of its column in the table of every figure, `<br>` where it may break; "": it has none.
        words: on a model card, for who does not know the short one; "": it is not on it.
        digits: behind the point.
        higher_is_better: of two graders the one with the larger figure.
    """

    title: str
    head: str = ""
    words: str = ""
    digits: int = 3
    higher_is_better: bool = True


LOWER = {"higher_is_better": False}
COUNTED = {"digits": 2, **LOWER}
KINDS = {  # by their names in metrics.json, in the order of every table
    "balanced_accuracy": Kind("balanced accuracy", words="balanced accuracy"),
    "accuracy": Kind("accuracy", "accu-<br>racy", "accuracy"),
    "macro_f1": Kind("macro F1", "macro<br>F1", "macro F1"),
    "macro_precision": Kind("macro precision", "preci-<br>sion", "macro precision"),
    "macro_sensitivity": Kind("macro sensitivity"),
    "macro_specificity": Kind("macro specificity", "speci-<br>ficity", "macro specificity"),
    "youden": Kind("Youden index", "Youden", "Youden index"),
    "kappa": Kind("quadratic kappa", "kappa", "quadratic-weighted kappa"),
    "mae_grade": Kind("MAE of grade", "MAE of<br>grade", "mean absolute error, in grades", **LOWER),
    "ece": Kind("ECE", "ECE", "expected calibration error", **LOWER),
    "mae_count": Kind("MAE of count", "MAE of<br>count", "mean absolute error, in lesions", **COUNTED),
    "rmse_count": Kind("RMSE of count", "RMSE of<br>count", **COUNTED),
    "grade_from_count.accuracy": Kind("accuracy, grade from count"),
    "grade_from_count.balanced_accuracy": Kind("balanced accuracy, grade from count", "bal. acc.<br>by count"),
    "count_from_grade.mae": Kind("MAE of count from grade", "MAE, count<br>by grade", **COUNTED),
    "count_from_grade.rmse": Kind("RMSE of count from grade", "RMSE, count<br>by grade", **COUNTED),
}
SLICES = {  # by the columns of `metrics.slices.SLICES`
    "skin_tone": "skin tone",
    "camera": "camera",
    "photo_size": "size of the photograph",
    "source": "source",
    "face_found": "whether a face was found",
    "lesion_size": "size of the lesions",
}


def kind(figure: str) -> Kind:
    """That of a figure's name, e.g. `kappa` or `recall.mild`."""
    return KINDS.get(figure) or Kind(f"recall {figure.removeprefix('recall.')}")
