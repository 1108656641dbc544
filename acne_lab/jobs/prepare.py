"""`acne-lab prepare data=...`: read, check and split the images of a source; the run holds the image table."""

import os
import sys
from pathlib import Path

from acne_lab.build import build, run_logger
from acne_lab.data.collect import Source, build_table
from acne_lab.data.table import ImageTable
from acne_lab.report.data import PAGE, data_lines, has_data_report, write_data_report
from acne_lab.runs import Run, open_run
from acne_lab.tracking import log_and_finish

# Arguments of sources that say where something lies; its content is in the source's fingerprint.
PLACES = {"root", "annotations_v2", "cache_dir", "blazeface", "identity"}


def prepare(config: dict) -> Run:
    """Build the table that `config["data"]` describes, or find it built, and say what is in it."""
    run = prepared(config)
    for line in data_lines(ImageTable.read(run.path)):
        print(line)
    print(f"report: {run.path / PAGE}")
    return run


def prepared(config: dict) -> Run:
    """The run of the table that `config["data"]` describes, with its report.html."""
    data = config["data"]
    if "source" not in data:
        raise ValueError(f"{data['root']} is an image table already: use it as data={data['root']}")
    source = build(data["source"])
    if "download" in data:  # a published set
        source.fetch(download=data["download"])
    about_table = {name: data[name] for name in ("source", "split", "on_bad")}
    about_run = {"name": data["name"], "runs_dir": config["runs_dir"]}
    about_table["source"] = {name: value for name, value in data["source"].items() if name not in PLACES}
    # The key is of the files' content, not of their place: a folder that was moved finds its table again.
    with open_run({**about_run, "table": about_table}, job="prepare", inputs=[source.fingerprint()]) as run:
        if not run.done:
            table = build_table(
                source,
                run.path / "table",
                split=data["split"],
                on_bad=data["on_bad"],
                num_workers=data["num_workers"],
            )
            for note in table.report["notes"]:
                print(note, file=sys.stderr)
            counts = table.counts()
            run.write_metrics({"num_images": len(table), "counts": counts.T.to_dict(), "table": table.key})
            logger = run_logger(config, run)
            log_and_finish(logger, {f"num_images/{name}": int(n) for name, n in counts.sum(axis=1).items()})
        relink_images(run.path / "table", source)  # the page reads them
        with_images = data.get("contact_sheet", True)
        if not (run.done and has_data_report(run.path, contact_sheet=with_images)):
            write_data_report(ImageTable.read(run.path), run.path, contact_sheet=with_images)
    return run


def relink_images(table: Path, source: Source) -> None:
    """Let the table of a finished run link to where its photographs lie now."""
    link = table / "images"
    if source.images_root is not None and link.resolve() != source.images_root.resolve():
        aside = link.with_name(f".images.{os.getpid()}")
        aside.symlink_to(source.images_root.resolve(), target_is_directory=True)
        aside.replace(link)


def table_of(config: dict) -> ImageTable:
    """The image table of `config["data"]`: the one at data.root, or one prepared from its source."""
    data = config["data"]
    return ImageTable.read(prepared(config).path if "source" in data else Path(data["root"]))
