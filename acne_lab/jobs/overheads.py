"""What real trainings spend on anything but the networks, and what a second process brings: for `acne-lab bench`."""

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
# A grader's step on few faces, likewise; its weights do not matter either. At 256 px they are resized, at 224 px not.
GRADER = (
    "experiment=grader",
    "backbone=tf_efficientnet_lite0",
    "model.pretrained=false",
    "data.source.class_counts={mild: 20, moderate: 20, severe: 20, very_severe: 20}",
    "loader.epoch_size=160",
    "trainer.max_epochs=1",
)
GRADER_SIDES = (256, 224)
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


def grader_step(env: dict, *, side: int, num_threads: int | None = None, words: tuple[str, ...] = ()) -> dict:
    """What a step of a real `acne-lab train experiment=grader` consists of, from packed pixels of `side` px.

    Returns:
        `seconds` of each part, medians over the steps but the first two: `batch` (pixels, augmentation, normalisation),
        `preprocess` (resize and crop to the backbone's size), `forward` (with the loss), `backward`, `optimizer`, and
        `rest` (callbacks, progress, logging). `step_s` is their sum, `network` the share of forward, backward and
        optimizer in it.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "durations.json"
        stopwatch = f"+trainer.profiler={{_target_: acne_lab.jobs.stopwatch.Stopwatch, path: '{path}'}}"
        size = (f"data.resolution={side}", f"num_threads={num_threads or 'null'}", "trainer.accelerator=cpu")
        acne_lab_train(env, folder, *GRADER, *size, stopwatch, *words)
        durations = json.loads(path.read_text())
    num_steps = len(durations[BATCH])

    def median(*ends: str) -> float:
        """Of all that is called so, together, in a step."""
        timed = [times[:num_steps] for name, times in durations.items() if name.endswith(ends)]
        return statistics.median(sum(parts) for parts in list(zip(*timed, strict=True))[2:])

    step, backward, whole = median(".training_step"), median("Strategy.backward"), median(".optimizer_step")
    seconds = {
        "batch": median(LOADER),
        "preprocess": median("preprocess"),
        "forward": step - median("preprocess"),
        "backward": backward,
        "optimizer": whole - step - backward,
        "rest": median(BATCH, "on_train_batch_start", "on_train_batch_end") - whole,
    }
    step_s = sum(seconds.values())
    network = sum(seconds[part] for part in ("forward", "backward", "optimizer")) / step_s
    return {"side": side, "step_s": step_s, "network": network, "seconds": seconds}


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
        raise ValueError("the training could not be measured: see above, or leave out what needs it")
