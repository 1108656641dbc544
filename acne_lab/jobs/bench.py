"""`acne-lab bench [out=bench.json]`: how fast training and generation are, and how near to what the machine can do.

configs    which: names of resolution, width and batch (default: {configs}); `-half` at the end is 16 bit
repeats    at least so many timed iterations (default 3) ...
seconds    ... and more until so much time has passed, for each configuration (default 30)
device     cpu, cuda or auto (the default)
impl       auto, native or reference: which operators (default: what ACNE_LAB_OPS says, else auto)
num_threads  of the CPU (default: torch's choice)
profile    true also says which operators the time of an iteration goes into (of a CPU)
overheads  true (the default) also trains for two ticks, and says what all but training costs
scaling    true also measures how time grows with the batch and with pixels, and what a second process brings
grader     true measures a grader's step instead: tf_efficientnet_lite0 on a CPU, from pixels of {sides} px
out        a JSON file for all figures
"""

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from acne_lab.jobs.overheads import GRADER_SIDES, grader_step, training_overheads, two_processes
from acne_lab.runs import environment, write_text

NAME = re.compile(r"(?P<side>\d+)-(?P<width>full|auto|w?\d+)-b(?P<batch>\d+)(?P<half>-half)?")
CONFIGS = ("64-full-b8", "64-2048-b16", "128-4096-b8", "256-auto-b4")
BATCHES = ("64-2048-b4", "64-2048-b8", "64-2048-b16", "64-2048-b32")
PIXELS = ("32-w32-b8", "64-w32-b8", "128-w32-b8")  # the same channels at every resolution: work grows with pixels


def bench(
    *,
    configs: tuple[str, ...] = CONFIGS,
    repeats: int = 3,
    seconds: float = 30.0,
    device: str = "auto",
    impl: str | None = None,
    num_threads: int | None = None,
    profile: bool = False,
    overheads: bool = True,
    scaling: bool = False,
    grader: bool = False,
    out: Path | None = None,
) -> dict:
    """All figures, as they are written to `out` after each part; arguments as in the module's docstring."""
    for name in configs:
        overrides(name)  # a wrong name is an error now, not after the others are measured
    env = os.environ | ({"ACNE_LAB_OPS": impl} if impl else {})
    options = {
        "repeats": repeats,
        "seconds": seconds,
        "device": device,
        "num_threads": num_threads,
        "profile": profile,
    }
    report = {"environment": environment(), "impl": env.get("ACNE_LAB_OPS", "auto"), "peak_gflops": {}, "results": []}

    def save() -> None:
        if out is not None:
            write_text(out, json.dumps(report, indent=2) + "\n")

    if grader:
        report["grader"] = []
        for side in GRADER_SIDES:
            print(f"a grader's step: tf_efficientnet_lite0, pixels of {side} px", file=sys.stderr)
            report["grader"].append(grader_step(env, side=side, num_threads=num_threads))
            save()
        return report
    for number, name in enumerate(configs, start=1):
        print(f"[{number}/{len(configs)}] {name}", file=sys.stderr)
        result = measured(name, options, env)
        report["results"].append(result)
        report["peak_gflops"] = largest(report["results"])
        save()
    if overheads:
        print("what all but training costs: two ticks of experiment=gan_base", file=sys.stderr)
        report["overheads"] = training_overheads(env, num_threads=num_threads)
        save()
    if scaling:
        report["scaling"] = {}
        for kind, names in (("batch", BATCHES), ("pixels", PIXELS)):
            print(f"scaling with {kind}: {', '.join(names)}", file=sys.stderr)
            report["scaling"][kind] = [per_image(measured(name, options, env)) for name in names]
            save()
        print("scaling with processes: one, then two, of a thread each", file=sys.stderr)
        report["scaling"]["processes"] = two_processes(env)
        save()
    return report


def measured(name: str, options: dict, env: dict) -> dict:
    """The figures of one configuration, from a process of its own."""
    asked = json.dumps({"name": name, "words": overrides(name), **options})
    command = [sys.executable, "-m", "acne_lab.jobs.measure", asked]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=env, check=False)
    if done.returncode:
        killed = " (killed: too little memory?)" if done.returncode < 0 else ""
        raise ValueError(f"{name} could not be measured{killed}: see above, or choose others, configs=64-2048-b16")
    return json.loads(done.stdout.splitlines()[-1])


def largest(results: list[dict]) -> dict[str, float]:
    """The convolution peak of each type, over all processes that have measured it."""
    peaks = [(kind, max(both.values())) for result in results for kind, both in result["peak_gflops"].items()]
    return {kind: max(peak for other, peak in peaks if other == kind) for kind, _ in sorted(peaks)}


def overrides(name: str) -> list[str]:
    """What `acne-lab train` would be told to train the configuration of that name: 64-full-b8, 256-auto-b4-half, ...

    It is resolution, width and batch. The width is `full` (config F), `auto` (the preset), a channel_base, or `w32`
    for 32 channels at every resolution; `-half` computes the four largest resolutions in 16 bit.

    Raises:
        ValueError: that is no such name.
    """
    match = NAME.fullmatch(name)
    if match is None:
        raise ValueError(
            f"configs={name}: a configuration is resolution-width-batch, as 64-full-b8, 64-2048-b16, 256-auto-b4 "
            "or, in 16 bit, 64-full-b8-half"
        )
    side, width, batch = int(match["side"]), match["width"], int(match["batch"])
    words = ["experiment=gan_base", f"model={'auto' if width == 'auto' else 'stylegan2'}"]
    words += [f"data.resolution={side}", f"model.G.num_half_res={4 if match['half'] else 0}"]
    words += [f"stage.{key}={batch}" for key in ("batch_size", "tick_images", "num_images")]
    if width.isdigit():
        words.append(f"model.G.channel_base={width}")
    elif width.startswith("w"):
        words += [f"model.G.channel_max={width[1:]}", f"model.G.channel_base={int(width[1:]) * side}"]
    return words


def per_image(result: dict) -> dict:
    """What `scaling` keeps of a configuration."""
    times = {f"{what}_ms_per_image": 1000 / result[f"{what}_images_per_s"] for what in ("train", "generate")}
    return {"config": result["config"], **times}


# ---- what is printed -----------------------------------------------------------------------------


def table(report: dict) -> str:
    """The report as text: a line for each configuration, then its phases, then the rest."""
    lines = []
    if "grader" in report:
        return _grader_steps(report["grader"])
    peaks = ", ".join(f"{peak:.0f} GFLOP/s in {kind}" for kind, peak in report["peak_gflops"].items())
    if report["results"]:
        lines += [f"convolution peak: {peaks}", "", _rates(report["results"]), "", _phases(report["results"])]
    if shares := {result["config"]: result["time_shares"] for result in report["results"] if result["time_shares"]}:
        rows = pd.DataFrame(shares).map("{:.1%}".format).rename_axis("share of the time")
        lines += ["", rows.reset_index().to_string(index=False)]
    if "overheads" in report:
        shares = report["overheads"]
        lines += [
            "",
            f"a training of {shares['seconds']:.0f} s: {shares['besides_training']:.2%} besides training (sample grids "
            f"{shares['sample_grids']:.2%}, checkpoints {shares['checkpoints']:.2%}); waiting for batches: "
            f"{shares['loader']:.2%} of a step",
        ]
    for kind in ("batch", "pixels"):
        if kind in report.get("scaling", {}):
            rows = pd.DataFrame(report["scaling"][kind])
            lines += ["", f"scaling with {kind}", rows.to_string(index=False, float_format="%.2f")]
    if "processes" in report.get("scaling", {}):
        both = report["scaling"]["processes"]
        lines += [
            "",
            f"two processes: {both['two_s_per_kimg']:.1f} s/kimg, one: {both['one_s_per_kimg']:.1f}; "
            f"efficiency {both['efficiency']:.0%}",
        ]
    return "\n".join(lines)


def _rates(results: list[dict]) -> str:
    rows = [
        {
            "config": result["config"],
            "train img/s": f"{result['train_images_per_s']:.2f}",
            "of peak": f"{result['train_fraction_of_peak']:.0%}",
            "generate img/s": f"{result['generate_images_per_s']:.1f}",
            "of peak ": f"{result['generate_fraction_of_peak']:.0%}",
            "memory MB": f"{result['peak_memory_mb']:.0f}",
            "ADA": f"{result['ada_cost']:+.1%}",
        }
        for result in results
    ]
    return pd.DataFrame(rows).to_string(index=False)


def _phases(results: list[dict]) -> str:
    rows = []
    for result in results:
        every = {phase: f"/{k}" if k > 1 else "" for phase, k in result["phase_intervals"].items()}
        phases = {f"{phase}{every.get(phase, '')}": f"{1000 * s:.1f}" for phase, s in result["phase_s"].items()}
        rows.append({"ms": result["config"], **phases, "iteration": f"{1000 * result['iteration_s']:.1f}"})
    return pd.DataFrame(rows).to_string(index=False)


def _grader_steps(steps: list[dict]) -> str:
    rows = [
        {
            "ms": f"{step['side']} px",
            **{part: f"{1000 * seconds:.1f}" for part, seconds in step["seconds"].items()},
            "step": f"{1000 * step['step_s']:.1f}",
            "in the network": f"{step['network']:.1%}",
        }
        for step in steps
    ]
    return pd.DataFrame(rows).to_string(index=False)


def arguments(words: list[str]) -> dict:
    """The keyword arguments of `bench` that these words give; ValueError names what is wrong with them."""
    kinds = {
        "configs": lambda text: tuple(text.split(",")),
        "repeats": int,
        "seconds": float,
        "device": choice("auto", "cpu", "cuda"),
        "impl": choice("auto", "native", "reference"),
        "num_threads": int,
        "profile": flag,
        "overheads": flag,
        "scaling": flag,
        "grader": flag,
        "out": lambda text: Path(text).resolve(),
    }
    given = dict(text.partition("=")[::2] for text in words)
    if unknown := set(given) - set(kinds):
        raise ValueError(f"no argument {', '.join(sorted(unknown))}; there are {', '.join(kinds)}")
    result = {}
    for name, text in given.items():
        try:
            result[name] = kinds[name](text)
        except ValueError as error:
            raise ValueError(f"{name}={text}: {error}") from None
    return result


def choice(*values: str) -> Callable[[str], str]:
    """A function that takes one of these words."""

    def one_of(text: str) -> str:
        if text not in values:
            raise ValueError(f"it must be {', '.join(values[:-1])} or {values[-1]}")
        return text

    return one_of


def flag(text: str) -> bool:
    return choice("true", "false")(text) == "true"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="acne-lab bench",
        description=__doc__.format(configs=",".join(CONFIGS), sides=" and ".join(map(str, GRADER_SIDES))),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("words", nargs="*", metavar="key=value", help="any of the above")
    try:
        given = arguments(parser.parse_args().words)
        report = bench(**given)
    except ValueError as error:
        sys.exit(f"error: {error}")
    print(table(report))
    if "out" in given:
        print(given["out"])
