"""`acne-lab convert file=stylegan2-ffhq.pkl to=ffhq.safetensors`: networks from one kind of file into another.

from  a GAN's run (its name or folder), shipped weights, a released file (.pkl of PyTorch or TensorFlow), state dicts
      (.pt), or .safetensors. Nothing in a file is executed.
to    .safetensors (every network, with what is needed to build them, beside a readable .json), .pt (TorchScript of
      G_ema, for C++) or .onnx (G_ema; needs the extra `export`). Exported networks take z, [c,] psi.

A grader's run becomes .onnx: photographs, uint8 [N, R, R, 3], in; calibrated probabilities, grade and, if it counts
lesions, their number out. Classes, decision and whom it has learned from are in the file's metadata.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from torch import nn

from acne_lab.gan.export import to_onnx, to_torchscript
from acne_lab.gan.generator import Generator
from acne_lab.gan.weights import read_networks, save_networks
from acne_lab.jobs.gans import weights_file
from acne_lab.runs import GAN, GRADER, Run, named_runs, write_text

TARGETS = (".safetensors", ".pt", ".onnx")
ARGUMENTS = {"file", "to", "overwrite", "runs_dir"}


def convert(file: str, to: str, *, runs_dir: str = "runs", overwrite: bool = False) -> Path:
    """Read the networks that `file` names and write them to `to`; return its absolute path.

    Raises:
        ValueError: the source cannot be read, the target exists or its suffix is not known.
    """
    target = Path(to).resolve()
    if target.suffix not in TARGETS:
        raise ValueError(f"to={to}: the end of the name says what is written, {', '.join(TARGETS)}")
    outputs = [target, target.with_suffix(".json")] if target.suffix == ".safetensors" else [target]
    for path in outputs:
        if path.exists() and not overwrite:
            raise ValueError(f"{path} exists: give another name, or overwrite=true")
    if target.suffix == ".onnx":
        require_onnx()
    if names_grader(file, runs_dir):
        from acne_lab.jobs.convert_grader import write_grader  # seconds of imports, which no GAN waits for

        if target.suffix != ".onnx":
            raise ValueError(f"a grader becomes .onnx, not {target.suffix}: to={target.stem}.onnx")
        target.parent.mkdir(parents=True, exist_ok=True)
        with whole_or_absent(target) as aside:
            write_grader(file, aside, runs_dir=runs_dir)
        print(f"  {target.name}, {target.stat().st_size / 1e6:.1f} MB", file=sys.stderr)
        return target
    source = weights_file(file, runs_dir)
    print(f"read {source}", file=sys.stderr)
    networks = read_networks(source)
    for name, network in networks.items():
        print(f"  {name}: {description(network)}", file=sys.stderr)

    target.parent.mkdir(parents=True, exist_ok=True)
    if target.suffix == ".safetensors":
        save_networks(target, **networks)
        arguments = {name: network.init_kwargs for name, network in networks.items()}
        write_text(outputs[1], json.dumps(arguments, indent=2) + "\n")
    else:
        export(networks["G_ema"], target)
    print(f"  {target.stat().st_size / 1e6:.1f} MB", file=sys.stderr)
    return target


def export(G_ema: Generator, target: Path) -> None:
    """Write TorchScript or ONNX aside, check it, and rename it."""
    with whole_or_absent(target) as aside:
        if target.suffix == ".pt":
            to_torchscript(G_ema, aside)
            checked = "the same to the bit"
        else:
            checked = f"within {to_onnx(G_ema, aside):.1e} of the largest pixel of ours"
    print(f"  G_ema's images from {target.name}: {checked}", file=sys.stderr)


def names_grader(file: str, runs_dir: str) -> bool:
    """Whether the runs of that name hold a grader, and no GAN."""
    path = Path(file)
    runs = [Run(path)] if (path / "config.yaml").exists() else named_runs(file, Path(runs_dir).resolve())
    held = {run.holds for run in runs}
    return GRADER in held and GAN not in held


def require_onnx() -> None:
    """Raise a ValueError unless the packages of the extra `export` are there."""
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise ValueError(f"writing .onnx needs {', '.join(missing)}: pip install 'acne-lab[export]'")


@contextmanager
def whole_or_absent(target: Path) -> Iterator[Path]:
    """A path to write to, which becomes `target` unless there is an error."""
    aside = target.with_name(f".{target.name}")
    try:
        yield aside
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)


def description(network: nn.Module) -> str:
    millions = sum(p.numel() for p in network.parameters()) / 1e6
    labels = f"{network.c_dim} classes" if network.c_dim else "unconditional"
    size = f"{network.img_resolution} px, {network.img_channels} channels"
    return f"{size}, {labels}, {millions:.2f} M parameters"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="acne-lab convert", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "arguments", nargs="+", metavar="key=value", help="file=SOURCE to=TARGET [overwrite=true] [runs_dir=FOLDER]"
    )
    given = dict(text.partition("=")[::2] for text in parser.parse_args().arguments)
    try:
        if not {"file", "to"} <= set(given) <= ARGUMENTS or given.get("overwrite") not in (None, "true", "false"):
            raise ValueError("give file=SOURCE to=TARGET and, if wanted, overwrite=true and runs_dir=FOLDER")
        overwrite = given.get("overwrite") == "true"
        print(convert(given["file"], given["to"], runs_dir=given.get("runs_dir", "runs"), overwrite=overwrite))
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
