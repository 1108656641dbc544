"""`acne-lab report study=demo` and `acne-lab report data=TABLE`: write a page again."""

import argparse
import json
import sys
from pathlib import Path

from acne_lab.data.table import ImageTable
from acne_lab.jobs.members import newest_sweep
from acne_lab.runs import find_table

SWITCH = {"true": True, "false": False}


def newest_study(name: str, runs_dir: Path) -> Path:
    """The folder of the study's run that finished last.

    Raises:
        ValueError: no run of that study is there; the message lists those that are.
    """
    found = {}
    for story in sorted(runs_dir.glob("study/*/study.json"), key=lambda path: path.stat().st_mtime):
        found[json.loads(story.read_text())["name"]] = story.parent
    if name not in found:
        there = f"there are: {', '.join(found)}" if found else "there is none yet: acne-lab study study=" + name
        raise ValueError(f"no study {name} in {runs_dir}; {there}")
    return found[name]


def study_page(given: dict[str, str]) -> Path:
    """Write report.html and report.md of `study=NAME or FOLDER`; of a swept study's name: of all members."""
    runs_dir = Path(given.get("runs_dir", "runs")).resolve()
    path = Path(given["study"])
    is_folder = (path / "study.json").exists()
    key = None if is_folder else newest_sweep(given["study"], runs_dir)
    folder = path.resolve() if is_folder else newest_study(given["study"], runs_dir)
    # Seconds of imports, which --help and wrong names do not wait for.
    from acne_lab.jobs.sweep_page import write_merged
    from acne_lab.report.page import write_report

    return write_report(folder, runs_dir) if key is None else write_merged(key, runs_dir) / "report.html"


def data_page(given: dict[str, str]) -> Path:
    """Write report.html of `data=RUN or FOLDER`."""
    from acne_lab.report.data import write_data_report

    folder = page_folder(given["data"], given.get("runs_dir", "runs"))
    contact_sheet = given.get("contact_sheet", "true").lower()
    if contact_sheet not in SWITCH:
        raise ValueError(f"contact_sheet must be true or false, not {contact_sheet}")
    return write_data_report(ImageTable.read(folder), folder, contact_sheet=SWITCH[contact_sheet])


def page_folder(reference: str, runs_dir: str | Path) -> Path:
    """Where the page of a table belongs: into its run, or into the folder of a table that is no run's."""
    folder = find_table(reference, runs_dir).resolve()
    of_a_run = folder.name == "table" and (folder.parent / "config.yaml").exists()
    return folder.parent if of_a_run else folder


PAGES = {"study": (study_page, {"study", "runs_dir"}), "data": (data_page, {"data", "runs_dir", "contact_sheet"})}


def main() -> None:
    parser = argparse.ArgumentParser(prog="acne-lab report", description=__doc__)
    parser.add_argument(
        "overrides", nargs="+", metavar="study=NAME|data=TABLE", help="[runs_dir=FOLDER], [contact_sheet=false]"
    )
    given = dict(text.partition("=")[::2] for text in parser.parse_args().overrides)
    try:
        asked = [name for name in PAGES if name in given]
        if len(asked) != 1 or set(given) - PAGES[asked[0]][1]:
            raise ValueError("give study=NAME or data=TABLE, and, if it is not ./runs, runs_dir=FOLDER")
        print(PAGES[asked[0]][0](given))
    except ValueError as error:
        sys.exit(f"error: {error}")
