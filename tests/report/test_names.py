"""One name of each figure and slice, and none of what there is not."""

from graded import drawn

from acne_lab.metrics import slices
from acne_lab.metrics.grading import figures
from acne_lab.metrics.totals import flat
from acne_lab.report import names


def test_every_figure_and_slice_has_its_name():
    there = {name for name in flat(figures(drawn(0))) if not name.startswith("recall.")}
    assert set(names.KINDS) <= there
    assert list(names.SLICES) == list(slices.SLICES)


def test_recalls_are_called_after_their_severity():
    assert names.kind("recall.very_severe").title == "recall very_severe" and names.kind("ece").title == "ECE"
