"""What real trainings spend on anything but training, and what a second process brings: for `acne-lab bench`."""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd

BATCH, LOADER = "run_training_batch", "[_TrainingEpochLoop].train_dataloader_next"  # Lightning's names
# A real training of the small model on few faces: how many there are does not change what a batch costs.
TRAINING = (
    "experiment=gan_base",
    "data.source.class_counts={mild: 40, moderate: 40, severe: 40, very_severe: 40}",
)
TICK = 960  # images, as in conf/stage/severity.yaml: the shortest ticks that ship


def training_overheads(env: dict, *, num_threads: int | None = None, words: tuple[str, ...] = ()) -> dict[str, float]:
    """Shares of the time of a real `acne-lab train`, two ticks long, that are not training.

    `loader` is the wait for batches as a share of the iterations. `besides_training` is everything but iterations and
    that wait, as a share of all: sample grids, checkpoints, metrics and their logging (also that within an
    iteration), Lightning's loop. Of it, `sample_grids` and `checkpoints` are given by themselves.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "durations.json"
        stopwatch = f"+trainer.profiler={{_target_: acne_lab.jobs.stopwatch.Stopwatch, path: '{path}'}}"
        ticks = (f"stage.tick_images={TICK}", f"stage.num_images={2 * TICK}")
        acne_lab_train(env, folder, *TRAINING, *ticks, f"num_threads={num_threads or 'null'}", stopwatch, *words)
        durations = {name: sum(times) for name, times in json.loads(path.read_text()).items()}

    def hooks(of: str, *ends: str) -> float:
        return sum(s for name, s in durations.items() if name.startswith(f"[Callback]{of}") and name.endswith(ends))

    whole = durations["run_training_epoch"] + hooks("", "on_train_start", "epoch_start", "epoch_end", "on_train_end")
    besides = whole - durations[BATCH] - durations[LOADER] + durations["log"]
    return {
        "loader": durations[LOADER] / durations[BATCH],
        "besides_training": besides / whole,
        "sample_grids": hooks("SampleGrid", "on_train_start", "epoch_end") / whole,
        "checkpoints": hooks("Checkpoint", "epoch_end") / whole,
        "seconds": whole,
    }


def two_processes(env: dict, *, words: tuple[str, ...] = ()) -> dict[str, float]:
    """s/kimg of one process with one thread and of two that share the batch, and the efficiency: 1 is twice as fast."""
    ticks = ("num_threads=1", "trainer.accelerator=cpu", "stage.tick_images=256", "stage.num_images=768", *words)
    alone = seconds_per_kimg(env, *TRAINING, *ticks)
    both = seconds_per_kimg(env, *TRAINING, *ticks, "trainer=ddp", "trainer.devices=2")
    return {"one_s_per_kimg": alone, "two_s_per_kimg": both, "efficiency": alone / (2 * both)}


def seconds_per_kimg(env: dict, *words: str) -> float:
    """Of a real training: the median of its ticks but the first."""
    with tempfile.TemporaryDirectory() as folder:
        acne_lab_train(env | {"OMP_NUM_THREADS": "1"}, folder, *words)
        [table] = Path(folder).glob("train/*/metrics.csv")
        return statistics.median(pd.read_csv(table)["speed/s_per_kimg"][1:])


def acne_lab_train(env: dict, runs_dir: str, *words: str) -> None:
    command = [sys.executable, "-m", "acne_lab.jobs", "train", *words, f"runs_dir={runs_dir}"]
    if subprocess.run(command, stdout=subprocess.DEVNULL, env=env, check=False).returncode:
        raise ValueError("the training could not be measured: see above, or overheads=false and no scaling")
