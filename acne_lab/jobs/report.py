"""`acne-lab report study=demo`: write the HTML page and report.md of a study's newest run again."""

import argparse
import json
import sys
from pathlib import Path

from acne_lab.report.page import write_report


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


def main() -> None:
    parser = argparse.ArgumentParser(prog="acne-lab report", description=__doc__)
    parser.add_argument(
        "overrides", nargs="+", metavar="study=NAME", help="study=NAME or study=FOLDER, [runs_dir=FOLDER]"
    )
    given = dict(text.partition("=")[::2] for text in parser.parse_args().overrides)
    runs_dir = Path(given.get("runs_dir", "runs")).resolve()
    try:
        if set(given) - {"study", "runs_dir"} or "study" not in given:
            raise ValueError("give study=NAME and, if it is not ./runs, runs_dir=FOLDER")
        path = Path(given["study"])
        folder = path.resolve() if (path / "study.json").exists() else newest_study(given["study"], runs_dir)
        print(write_report(folder, runs_dir))
    except ValueError as error:
        sys.exit(f"error: {error}")
