"""What `acne-lab bench` runs for each configuration, in a process of its own, so that its peak memory is its own.

    python -m acne_lab.jobs.measure '{"name": "64-full-b8", "words": ["experiment=gan_base", ...], "repeats": 3, ...}'

The last line on standard output is the result as JSON. Training is the real LightningModule under the real Trainer
on noise for images; only the intervals of the regularisation are set to 1, so that every iteration goes through all
four phases. Every second iteration augments with p = 0.6: its cost is a difference of neighbours.
"""

import json
import platform
import re
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
import torch.nn.functional as F

from acne_lab.build import build, composed
from acne_lab.callbacks import to_uint8
from acne_lab.data.module import GanData
from acne_lab.data.table import COLUMNS, ImageTable
from acne_lab.gan.flops import PHASES, Flops, generation_flops, training_flops
from acne_lab.gan.generator import Generator, fast_layout, half_dtype
from acne_lab.gan.latent import seeded_z
from acne_lab.jobs.malloc import keep_freed_memory, return_freed_memory
from acne_lab.jobs.overheads import BATCH, LOADER
from acne_lab.jobs.shares import Profiled
from acne_lab.jobs.stopwatch import Stopwatch
from acne_lab.jobs.training import start_job

WARM_UP = 2  # iterations that are not timed: one of each kind
ADA_P = 0.6  # where published small-data runs settle (Karras et al. 2020, figure 7)
# Images, channels (in and out) and side of 3x3 convolutions: 5 GFLOP each, the shapes of the networks' layers.
PEAK_SHAPES = ((4, 512, 16), (4, 256, 32), (4, 128, 64), (16, 64, 64))
PEAK_SCALE = {"cpu": 1, "cuda": 64}  # times as many images
STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")  # Linux


def measure(
    name: str,
    words: list[str],
    *,
    repeats: int,
    seconds: float,
    device: str,
    num_threads: int | None = None,
    profile: bool = False,
) -> dict:
    """Time training and generation of a configuration.

    Args:
        name: of the configuration.
        words: what `acne-lab train` would be told to train it.
        repeats: at least so many timed iterations of each kind, and batches ...
        seconds: ... and more of them until so much time has passed.
        device: "cpu", "cuda", or "auto" for the better that there is.
        num_threads: of a CPU; None leaves it to torch.
        profile: also where the processor's time goes, in another iteration.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("torch finds no GPU: device=cpu")
    config = composed("train", *words, "augment=ada", f"num_threads={num_threads or 'null'}")
    start_job(config)
    batch_size = config["stage"]["batch_size"]
    with torch.device("meta"):
        G, D = build(config["model"]["G"]), build(config["model"]["D"])
    flops, flops_generate = training_flops(G, D, batch_size), generation_flops(G, batch_size)

    bits = {kind for of_phase in flops.values() for kind in of_phase}
    before = {kind: convolution_peak(kind, device, repeats) for kind in bits}
    forget_peak_memory(device)
    memory_before = memory_mb(device)
    model, durations = train(config, repeats=repeats, seconds=seconds, device=device)
    memory = memory_mb(device, peak=True)
    G_ema = fast_layout(model.G_ema.to(device))  # Lightning has moved it to the host
    batch_s = median_seconds(lambda: generate(G_ema, batch_size), repeats=repeats, seconds=seconds, device=device)
    after = {kind: convolution_peak(kind, device, repeats) for kind in bits}
    peak = {kind: max(before[kind], after[kind]) for kind in bits}

    profiled = Profiled(first=WARM_UP)
    if profile:
        train(config, repeats=1, seconds=0.0, device=device, callbacks=[profiled])

    intervals = dict(zip(PHASES, (1, config["model"]["path_length_interval"], 1, config["model"]["r1_interval"])))
    phases = phase_seconds(durations, first=WARM_UP)
    iteration_s = amortised(phases, intervals)
    needed_s = amortised({phase: seconds_at(peak, of_phase) for phase, of_phase in flops.items()}, intervals)
    ada_s = amortised(phase_seconds(durations, first=WARM_UP + 1), intervals)
    return {
        "config": name,
        "train_images_per_s": batch_size / iteration_s,
        "generate_images_per_s": batch_size / batch_s,
        "train_fraction_of_peak": needed_s / iteration_s,
        "generate_fraction_of_peak": seconds_at(peak, flops_generate) / batch_s,
        "peak_memory_mb": memory,
        "memory_before_mb": memory_before,  # libraries: the same whatever is trained
        "ada_cost": ada_s / iteration_s - 1,
        "iteration_s": iteration_s,
        "phase_s": phases,
        "phase_intervals": intervals,
        "phase_gflop": {phase: of_phase.total() / 1e9 for phase, of_phase in flops.items()},
        "generate_gflop": flops_generate.total() / 1e9,
        "time_shares": profiled.shares,
        "num_iterations": len(durations[BATCH][WARM_UP::2]),
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "num_threads": torch.get_num_threads(),
        "peak_gflops": {
            f"{kind} bit": {"before": before[kind] / 1e9, "after": after[kind] / 1e9} for kind in sorted(bits)
        },
    }


# ---- training ------------------------------------------------------------------------------------


class Alternation(pl.Callback):
    """p = 0 and p = 0.6 in turns; ends the training when both have been timed often and long enough."""

    def __init__(self, *, repeats: int, seconds: float) -> None:
        self.repeats, self.seconds = repeats, seconds

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: object, index: int) -> None:
        module.augment.p = ADA_P if index % 2 else 0.0
        if index == WARM_UP:
            self.started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: object, batch: object, index: int
    ) -> None:
        pairs, rest = divmod(index + 1 - WARM_UP, 2)
        if pairs >= self.repeats and not rest:
            trainer.should_stop = time.perf_counter() - self.started >= self.seconds


def train(
    config: dict, *, repeats: int, seconds: float, device: str, callbacks: Sequence[pl.Callback] = ()
) -> tuple[pl.LightningModule, dict]:
    """The trained module, and the durations of its iterations: even ones without augmentation, odd ones with."""
    model = build(config["model"], r1_interval=1, path_length_interval=1)
    trainer = build(
        config["trainer"],
        accelerator={"cpu": "cpu", "cuda": "gpu"}[device],
        max_epochs=1,
        limit_train_batches=1.0,  # of an endless stream
        callbacks=[Alternation(repeats=repeats, seconds=seconds), *callbacks],
        profiler=Stopwatch(on_gpu=device == "cuda"),
        logger=False,
        enable_checkpointing=False,
    )
    trainer.fit(model, noise_images(config["data"]["resolution"], config["stage"]["batch_size"]))
    return model, trainer.profiler.durations()


def noise_images(resolution: int, batch_size: int) -> GanData:
    """The data module that training has, with four batches of noise."""
    rows = pd.DataFrame("", index=range(4 * batch_size), columns=list(COLUMNS))
    rows = rows.assign(file_name=[f"{i}.png" for i in rows.index], lesions=None, split="train", source="generated")
    shape = (len(rows), resolution, resolution, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    table = ImageTable(root=".", rows=rows, classes=("noise",))
    return GanData(table=table, pixels=pixels, batch_size=batch_size, seed=0, mirror=True)


def phase_seconds(durations: dict[str, list[float]], *, first: int) -> dict[str, float]:
    """Medians over every second iteration from `first` on: of each phase, and of the rest of an iteration.

    The rest is the wait for the batch, EMA, ADA's update, logging, and Lightning's own work.
    """
    chosen = {name: durations[name][first::2] for name in (*PHASES, BATCH, LOADER)}
    wholes = [batch + wait for batch, wait in zip(chosen.pop(BATCH), chosen.pop(LOADER))]
    rests = [whole - sum(phases) for whole, *phases in zip(wholes, *chosen.values())]
    return {name: statistics.median(times) for name, times in {**chosen, "rest": rests}.items()}


def amortised(of_phase: dict[str, float], intervals: dict[str, int]) -> float:
    """What an iteration has of each phase, on average."""
    return sum(value / intervals.get(phase, 1) for phase, value in of_phase.items())


# ---- generation, clocks and limits ---------------------------------------------------------------


def generate(G: Generator, batch_size: int) -> torch.Tensor:
    """A batch as `acne-lab generate` samples it, before it is written."""
    z, rngs = seeded_z(range(batch_size), z_dim=G.z_dim, seed=0)
    return to_uint8(G(z.to(G.mapping.w_avg.device), truncation_psi=0.7, rngs=rngs)).cpu()


def median_seconds(run: Callable[[], object], *, repeats: int, seconds: float, device: str) -> float:
    """Median time of `run`, over `repeats` times and `seconds` at least, after one that is not counted."""

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    times, deadline = [], None
    while deadline is None or len(times) < repeats or time.perf_counter() < deadline:
        wait()
        start = time.perf_counter()
        run()
        wait()
        if deadline is None:
            deadline = time.perf_counter() + seconds
        else:
            times.append(time.perf_counter() - start)
    return statistics.median(times)


@torch.no_grad()
def convolution_peak(bits: int, device: str, repeats: int) -> float:
    """FLOP/s of the fastest of `PEAK_SHAPES` in the fastest memory format, medians of `repeats`."""
    dtype = torch.float32 if bits == 32 else half_dtype(torch.device(device))
    peaks = []
    for num_images, channels, side in PEAK_SHAPES:
        x = torch.randn(num_images * PEAK_SCALE[device], channels, side, side, dtype=dtype, device=device)
        weight = torch.randn(channels, channels, 3, 3, dtype=dtype, device=device)
        flops = 2 * x.numel() * weight[0].numel()
        for layout in (torch.contiguous_format, torch.channels_last):
            inputs = x.to(memory_format=layout), weight.to(memory_format=layout)
            taken = median_seconds(
                lambda inputs=inputs: F.conv2d(*inputs, padding=1), repeats=repeats, seconds=0, device=device
            )
            peaks.append(flops / taken)
    return max(peaks)


def seconds_at(peak: dict[int, float], flops: Flops) -> float:
    """How long these operations take at the peaks of their types."""
    return sum(number / peak[bits] for bits, number in flops.items())


def forget_peak_memory(device: str) -> None:
    """What the convolutions for the peak have held is not training's."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    elif CLEAR_REFS.exists():
        return_freed_memory()
        CLEAR_REFS.write_text("5")  # proc(5): the resident size becomes the peak


def memory_mb(device: str, *, peak: bool = False) -> float:
    """What this process holds, or the most that it has held: of the GPU's memory, or resident in the host's."""
    if device == "cuda":
        return (torch.cuda.max_memory_allocated() if peak else torch.cuda.memory_allocated()) / 1e6
    if STATUS.exists():  # getrusage's peak would be at least that of the process which started this one
        return int(re.search(rf"{'VmHWM' if peak else 'VmRSS'}:\s+(\d+) kB", STATUS.read_text())[1]) * 1024 / 1e6
    peak_rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak_rss / (1e6 if platform.system() == "Darwin" else 1e3)


def main() -> None:
    keep_freed_memory()
    try:
        print(json.dumps(measure(**json.loads(sys.argv[1]))))
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
