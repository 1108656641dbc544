"""`acne-lab prepare data=...`: read, check and split the images of a source; the run holds the image table."""

from pathlib import Path

from acne_lab.build import build
from acne_lab.data.collect import build_table
from acne_lab.data.table import ImageTable
from acne_lab.runs import Run, open_run


def prepare(config: dict) -> Run:
    """Build the table that `config["data"]` describes, or find it built."""
    data = config["data"]
    if "source" not in data:
        raise ValueError(f"{data['root']} is an image table already: use it as data={data['root']}")
    source = build(data["source"])
    about_table = {name: data[name] for name in ("source", "split", "on_bad")}
    about_run = {"name": data["name"], "runs_dir": config["runs_dir"]}
    about_table["source"] = {name: value for name, value in data["source"].items() if name != "root"}
    with open_run({**about_run, "table": about_table}, job="prepare", inputs=[source.fingerprint()]) as run:
        if not run.done:
            table = build_table(
                source,
                run.path / "table",
                split=data["split"],
                on_bad=data["on_bad"],
                num_workers=data["num_workers"],
            )
            counts = table.counts()
            run.write_metrics({"num_images": len(table), "counts": counts.T.to_dict(), "table": table.key})
    return run


def table_of(config: dict) -> ImageTable:
    """The image table of `config["data"]`: the one at data.root, or one prepared from its source."""
    data = config["data"]
    return ImageTable.read(prepare(config).path if "source" in data else Path(data["root"]))
