"""`acne-lab runs`: list the runs, newest last."""

import argparse
import sys
from datetime import datetime
from pathlib import Path

from acne_lab.runs import Run


def main() -> None:
    parser = argparse.ArgumentParser(prog="acne-lab runs", description=__doc__)
    parser.add_argument("overrides", nargs="*", metavar="runs_dir=FOLDER", help="where the runs are; default ./runs")
    given = dict(text.partition("=")[::2] for text in parser.parse_args().overrides)
    if set(given) - {"runs_dir"}:
        sys.exit("error: the only argument is runs_dir=FOLDER")
    configs = sorted(Path(given.get("runs_dir", "runs")).glob("*/*/config.yaml"), key=lambda path: path.stat().st_mtime)
    for path in configs:
        run = Run(path.parent)
        when = datetime.fromtimestamp(path.stat().st_mtime).strftime("%Y-%m-%d %H:%M")
        print(f"{when}  {'done      ' if run.done else 'unfinished'}  {run.holds:<14}  {run.path}")
