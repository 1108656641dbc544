"""The verb `report`: which page it writes, and where."""

import shutil
import sys
from pathlib import Path

import pytest
from tiny import TOY, composed

from acne_lab.jobs.prepare import prepare
from acne_lab.jobs.report import main, page_folder


@pytest.fixture(scope="module")
def runs_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    few = "data.source.class_counts={mild: 3, moderate: 3, severe: 3, very_severe: 3}"
    prepare(composed("prepare", *TOY, few, f"runs_dir={folder}"))
    return folder


@pytest.fixture
def report(monkeypatch, capsys, runs_dir):
    """report(*words): the path that the verb prints."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["acne-lab", *words, f"runs_dir={runs_dir}"])
        main()
        return capsys.readouterr().out.strip()

    return run


def test_a_table_is_found_by_the_name_of_its_run_and_by_its_folder(report, runs_dir):
    (run,) = (runs_dir / "prepare").glob("toy-*")
    for reference in ("toy", run.name, str(run), str(run / "table")):
        assert page_folder(reference, runs_dir) == run
    (run / "report.html").unlink()
    assert report("data=toy") == str(run / "report.html")
    page = (run / "report.html").read_text()
    assert "12 toy faces" in page and "<img" in page


def test_the_page_of_a_table_that_is_no_runs_lies_in_it_and_images_can_be_left_out(report, runs_dir, tmp_path):
    (run,) = (runs_dir / "prepare").glob("toy-*")
    shutil.copytree(run / "table", tmp_path / "mine")
    page = report(f"data={tmp_path / 'mine'}", "contact_sheet=false")
    assert page == str(tmp_path / "mine" / "report.html")
    assert "12 toy faces" in Path(page).read_text() and "<img" not in Path(page).read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data=toy", "study=demo"], "give study=NAME or data=TABLE"),
        (["data=toy", "colour=red"], "give study=NAME or data=TABLE"),
        (["study=demo", "contact_sheet=false"], "give study=NAME or data=TABLE"),
        (["data=toy", "contact_sheet=no"], "must be true or false"),
        (["data=nothing"], "there is no run nothing"),
        (["study=nothing"], "no study nothing"),
    ],
)
def test_what_cannot_be_written_is_said(report, words, message):
    with pytest.raises(SystemExit, match=message):
        report(*words)
