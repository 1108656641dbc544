"""Figures of graders: what they draw, of one backbone and of several."""

import numpy as np
import pandas as pd

from acne_lab.report import grading_plots as plots
from acne_lab.report.grading_plots import Row
from acne_lab.report.plots import png


def test_graders_share_axes_and_one_epoch_is_visible():
    one_epoch = pd.DataFrame({"epoch": [0], "train/loss": [1.0], "val/balanced_accuracy": [0.5]})
    figure = plots.grader_figure({"$real$": one_epoch, "_hidden": one_epoch})
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "Training loss",
        "Validation balanced accuracy",
    ]
    assert all(line.get_marker() == "o" for axes in figure.axes for line in axes.lines)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [r"\$real\$", "hidden"]
    assert png(figure).startswith(b"\x89PNG")
    assert plots.grader_figure({}) is None


def test_arms_figure_marks_chance_and_leaves_out_missing_recalls():
    rows = [Row("a", 0.6, recall={"x": 0.6, "y": None}), Row("b", 0.4)]
    figure = plots.arms_figure({"": rows}, classes=["x", "y"])
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    assert list(lines) == ["recall x", "recall y", "balanced accuracy", "chance"]
    np.testing.assert_array_equal(lines["recall x"].get_xdata(), [0.6, np.nan])
    assert list(lines["chance"].get_xdata()) == [0.5, 0.5]
    assert lines["balanced accuracy"].get_ydata().tolist() == [1, 0], "the first arm is on top"


def test_differences_have_a_panel_a_backbone_and_one_scale():
    rows = [Row("a", 2.0, [1.0, 3.0], 1.5, (0.5, 4.0), "better"), Row("b", -1.0, [-1.0, -1.0], 0.0)]
    figure = plots.differences_figure({"$x$": rows, "y": rows[:1], "z": rows}, label="points")
    assert [axes.get_title(loc="left") for axes in figure.axes] == [r"\$x\$", "y", "z"]
    assert len({axes.get_xlim() for axes in figure.axes}) == 1
    drawn = {line.get_label(): line for line in figure.axes[0].lines}
    assert list(drawn["95 % over people"].get_xdata()) == [0.5, 4.0]
    assert list(drawn["95 % over seeds"].get_xdata()) == [0.5, 3.5]
    assert png(figure).startswith(b"\x89PNG")


def test_one_endless_interval_does_not_squeeze_the_others():
    """Of two seeds Student's interval is 13 standard errors wide."""
    figure = plots.differences_figure({"": [Row("a", 1.0, [0.0, 2.0], 12.7), Row("b", -3.0)]}, label="")
    low, high = figure.axes[0].get_xlim()
    assert -6 < low < -3 and 2 < high < 6


def test_reliability_is_drawn_for_every_arm_and_backbone():
    bins = [(0.55, 0.5, 0.4), (0.95, 0.8, 0.6)]
    figure = plots.reliability_figure([("a", bins, "ECE 0.1")] * 6)
    assert len(figure.axes) == 6
    assert list(figure.axes[0].lines[1].get_xdata()) == [0.55, 0.95]
    figure = plots.reliability_matrix({"x": [("a", bins, ""), ("b", bins, "")], "y": [("b", [], "")]})
    assert [len(axes.lines) for axes in figure.axes] == [2, 2, 0, 2]
    assert [axes.get_ylabel() for axes in figure.axes] == ["x", "", "y", ""]


def test_validation_curves_have_one_line_an_arm_in_every_panel():
    frame = pd.DataFrame({"epoch": [0, 1], "val/balanced_accuracy": [0.3, 0.5]})
    figure = plots.validation_figure({"x": {"a": frame, "b": frame}, "y": {"b": frame}, "z": {}})
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["x", "y"]
    assert figure.axes[0].lines[1].get_color() == figure.axes[1].lines[0].get_color()
    assert plots.validation_figure({"x": {"a": frame[["epoch"]]}}) is None
