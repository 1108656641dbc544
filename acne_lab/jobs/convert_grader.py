"""A grader's run as one ONNX file, from pixels to grade."""

import sys
from pathlib import Path

from acne_lab.data.lineage import Lineage
from acne_lab.grade.export import to_onnx
from acne_lab.jobs.graders import load_grader
from acne_lab.metrics.calibration import Decision


def write_grader(file: str, path: Path, *, runs_dir: str) -> None:
    """Write the finished run of a grader that `file` names as ONNX to `path`, and check it against the network."""
    grader, run, lineage = load_grader(file, runs_dir)
    print(f"read {run.path}", file=sys.stderr)
    resolution = run.config["data"]["resolution"]
    about = {
        "run": run.path.name,
        "input": f"square RGB photographs of {resolution} px, uint8 [N, {resolution}, {resolution}, 3]",
        "lineage": learned_from(lineage, run.metrics["lineage"]),
        "use": "for research; not a medical device",
    }
    decision = Decision(**run.metrics["decision"])
    difference = to_onnx(grader, path, resolution=resolution, decision=decision, about=about)
    print(f"  its answers from ONNX: within {difference:.1e} of ours", file=sys.stderr)


def learned_from(lineage: Lineage, about: dict) -> str:
    """Whom a grader has seen, in a sentence."""
    if not lineage.known:
        return "nobody knows whose photographs it has learned from"
    leaked = about["leaked_share"]
    unseen = "unknown" if leaked is None else f"{leaked:.1%}"
    return f"learned from {len(lineage)} photographs; share of its test images whose people it had seen: {unseen}"
