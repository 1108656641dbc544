"""The benchmark on the smallest configuration: what is timed, how it is put together, and its command."""

import json
import mmap
import os
import subprocess
import sys
import time

import pytest
import torch
from tiny import TINY_GAN, TINY_GRADER, TOY, composed

from acne_lab.build import build
from acne_lab.gan.flops import PHASES, generation_flops, training_flops
from acne_lab.gan.module import StyleGAN2
from acne_lab.jobs import measure
from acne_lab.jobs.bench import arguments, bench, overrides, table
from acne_lab.jobs.overheads import GRADER_SIDES, grader_step, training_overheads, two_processes
from acne_lab.jobs.shares import KINDS, kind_of
from acne_lab.jobs.stopwatch import Stopwatch
from acne_lab.ops import extension

TINY = "8-64-b4"
QUICK = {"repeats": 1, "seconds": 0.0, "device": "cpu"}
FIGURES = {
    "config",
    "train_images_per_s",
    "generate_images_per_s",
    "train_fraction_of_peak",
    "generate_fraction_of_peak",
    "peak_memory_mb",
}


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("64-full-b8", (64, 32768, 512, 8, 0, 8)),
        ("64-2048-b16", (64, 2048, 512, 16, 0, 8)),
        ("128-4096-b8-half", (128, 4096, 512, 8, 4, 8)),
        ("256-auto-b4", (256, 16384, 512, 4, 0, 2)),
        ("128-w32-b8", (128, 4096, 32, 8, 0, 8)),
    ],
)
def test_a_name_is_a_configuration(name, facts):
    config = composed("train", *overrides(name))
    G = config["model"]["G"]
    assert facts == (
        config["data"]["resolution"],
        G["channel_base"],
        G["channel_max"],
        config["stage"]["batch_size"],
        G["num_half_res"],
        G["num_mapping_layers"],
    )


@pytest.mark.parametrize("name", ["64-full", "64-wide-b8", "full-b8", "64-full-b8-quarter"])
def test_other_names_are_refused(name):
    with pytest.raises(ValueError, match="resolution-width-batch"):
        overrides(name)


@pytest.fixture
def small_peak(monkeypatch):
    monkeypatch.setattr(measure, "PEAK_SHAPES", ((2, 64, 16),))


def test_an_iteration_is_made_of_its_phases(small_peak, monkeypatch):
    """R1 that takes half a second longer is seen as R1, and as a sixteenth of that in the iteration."""
    original = StyleGAN2.regularize_discriminator

    def slow(*args):
        time.sleep(0.5)
        original(*args)

    monkeypatch.setattr(StyleGAN2, "regularize_discriminator", slow)
    result = measure.measure(TINY, overrides(TINY), **QUICK, num_threads=1)
    phases = result["phase_s"]
    assert set(phases) == {*PHASES, "rest"}
    assert all(seconds > 0 for seconds in phases.values())
    assert phases["D R1"] > 0.5
    by_hand = phases["G main"] + phases["G path length"] / 4 + phases["D main"] + phases["D R1"] / 16 + phases["rest"]
    assert result["iteration_s"] == pytest.approx(by_hand)
    assert result["train_images_per_s"] == pytest.approx(4 / by_hand)
    peak = max(result["peak_gflops"]["32 bit"].values())
    gflop = result["phase_gflop"]
    needed = gflop["G main"] + gflop["G path length"] / 4 + gflop["D main"] + gflop["D R1"] / 16
    assert result["train_fraction_of_peak"] == pytest.approx(needed / by_hand / peak)
    seconds = 4 / result["generate_images_per_s"]
    assert result["generate_fraction_of_peak"] == pytest.approx(result["generate_gflop"] / seconds / peak)
    assert result["peak_memory_mb"] > result["memory_before_mb"] > 0


def test_every_second_iteration_augments(small_peak):
    seen = []

    class Spy(measure.Alternation):
        def on_train_batch_end(self, trainer, module, *args):
            seen.append(module.augment.p > 0.5)
            super().on_train_batch_end(trainer, module, *args)

    config = composed("train", *overrides(TINY), "augment=ada")
    original, measure.Alternation = measure.Alternation, Spy
    try:
        _, durations = measure.train(config, repeats=2, seconds=0, device="cpu")
    finally:
        measure.Alternation = original
    assert seen == [False, True] * 3  # a pair of warm-ups and two that are timed
    assert len(durations["D R1"]) == len(durations["G path length"]) == 6


def test_two_types_have_two_peaks():
    """Two operations a second in 32 bit and eight in 16 bit: 4 / 2 + 16 / 8 seconds."""
    assert measure.seconds_at({32: 2.0, 16: 8.0}, {32: 4, 16: 16}) == 4.0


def test_the_median_leaves_the_first_time_out(monkeypatch):
    """Of 8 s, then 1, 2 and 6 s; and there are more of them until the time is over."""
    clock, taken = [0.0], iter([8.0, 1.0, 2.0, 6.0, 6.0])
    monkeypatch.setattr(measure.time, "perf_counter", lambda: clock[0])

    def run():
        clock[0] += next(taken)

    assert measure.median_seconds(run, repeats=3, seconds=0, device="cpu") == 2.0
    clock, taken = [0.0], iter([8.0, 1.0, 2.0, 6.0, 6.0])
    assert measure.median_seconds(run, repeats=1, seconds=10, device="cpu") == 4.0


@pytest.mark.skipif(not measure.CLEAR_REFS.exists(), reason="reads Linux's /proc")
def test_memory_has_a_peak():
    measure.forget_peak_memory("cpu")
    before = measure.memory_mb("cpu", peak=True)
    assert before == pytest.approx(measure.memory_mb("cpu"), abs=5)
    with mmap.mmap(
        -1, 100_000_000
    ) as held:  # from the operating system: malloc might take it from what tests have freed
        for page in range(0, len(held), mmap.PAGESIZE):
            held[page] = 1
    assert measure.memory_mb("cpu") == pytest.approx(before, abs=10)
    assert measure.memory_mb("cpu", peak=True) == pytest.approx(before + 100, abs=10)


def test_the_stopwatch_leaves_its_durations(tmp_path):
    stopwatch = Stopwatch(path=str(tmp_path / "durations.json"))
    for seconds in (0.02, 0.0):
        with stopwatch.profile("nap"):
            time.sleep(seconds)
    stopwatch.describe()
    first, second = json.loads((tmp_path / "durations.json").read_text())["nap"]
    assert first >= 0.02
    assert second > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["config=64-full-b8"], "no argument config; there are configs, repeats"),
        (["repeats=two"], "repeats=two"),
        (["device=tpu"], "device=tpu: it must be auto, cpu or cuda"),
        (["scaling=yes"], "scaling=yes: it must be true or false"),
    ],
)
def test_bad_arguments(words, message):
    with pytest.raises(ValueError, match=message):
        arguments(words)


def test_the_command_writes_what_it_prints(tmp_path):
    words = [f"configs={TINY}", "repeats=1", "seconds=0", "overheads=false", "num_threads=1"]
    command = [sys.executable, "-m", "acne_lab.cli", "bench", f"out={tmp_path / 'bench.json'}", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "bench.json").read_text())
    [result] = report["results"]
    assert set(result) > FIGURES
    assert result["config"] == TINY
    assert all(result[name] > 0 for name in FIGURES - {"config"})
    assert report["peak_gflops"] == {"32 bit": max(result["peak_gflops"]["32 bit"].values())}
    assert table(report) in done.stdout
    assert TINY in done.stdout


def test_the_operators_are_those_that_were_asked_for(monkeypatch):
    """The measuring process gets them by ACNE_LAB_OPS."""
    given = []
    monkeypatch.setattr(
        "acne_lab.jobs.bench.measured",
        lambda name, options, env: given.append(env["ACNE_LAB_OPS"]) or {"peak_gflops": {"32 bit": {"before": 1.0}}},
    )
    assert bench(configs=(TINY,), impl="reference", overheads=False)["impl"] == "reference"
    assert given == ["reference"]


def test_the_count_of_operations_does_not_depend_on_the_operators():
    with torch.device("meta"):
        G, D = (build(composed("train", *overrides(TINY))["model"][name]) for name in "GD")
    counts = []
    for impl in ("native", "reference"):
        with extension.use(impl):
            counts.append((training_flops(G, D, 4), generation_flops(G, 4)))
    assert counts[0] == counts[1]


@pytest.mark.slow
def test_sixteen_bit_is_compared_with_its_own_peak():
    report = bench(configs=(f"{TINY}-half",), overheads=False, **QUICK)
    assert set(report["peak_gflops"]) == {"16 bit", "32 bit"}


@pytest.mark.slow
def test_a_configuration_that_cannot_be_measured_is_named():
    with pytest.raises(ValueError, match="12-64-b4 could not be measured"):
        bench(configs=("12-64-b4",), overheads=False, **QUICK)


@pytest.mark.slow
def test_overheads_of_a_real_training():
    words = (*TOY, *TINY_GAN)
    shares = training_overheads(dict(os.environ), num_threads=1, words=words)
    print(shares)
    assert all(0 < share < 1 for name, share in shares.items() if name != "seconds")
    assert shares["sample_grids"] + shares["checkpoints"] < shares["besides_training"]


@pytest.mark.slow
def test_two_processes_are_compared_with_one():
    figures = two_processes(dict(os.environ), words=(*TOY, *TINY_GAN, "stage.batch_size=8", "stage.num_images=32"))
    assert figures["efficiency"] == pytest.approx(figures["one_s_per_kimg"] / figures["two_s_per_kimg"] / 2)


def test_the_profile_knows_every_kind_of_operator(small_peak):
    """Shares add up to 1, and a training is made of all kinds; what is not known is little."""
    result = measure.measure(TINY, overrides(TINY), **QUICK, profile=True)
    shares = result["time_shares"]
    assert sum(shares.values()) == pytest.approx(1)
    assert set(shares) == {*KINDS, "rest"}
    assert result["config"] in table({"results": [result], "peak_gflops": {}})


@pytest.mark.parametrize(
    ("name", "shapes", "kind"),
    [
        ("aten::mkldnn_convolution", [[2, 8, 4, 4], [8, 8, 3, 3]], "convolution"),
        ("aten::mkldnn_convolution", [[2, 8, 4, 4], [8, 1, 4, 4]], "filter, bias, activation"),
        ("aten::convolution_backward", [[2, 8, 4, 4], [2, 1, 4, 4], [8, 1, 4, 4]], "filter, bias, activation"),
        ("aten::convolution_backward", [[2, 8, 4, 4], [2, 1, 4, 4], [8, 8, 1, 1]], "convolution"),
        ("acne_lab::epilogue_backward", [[2, 8, 4, 4]], "filter, bias, activation"),
        ("aten::mul_", [[2]], "arithmetic"),
        ("AddBackward0", [[2]], "rest"),
    ],
)
def test_kinds_of_operators(name, shapes, kind):
    assert kind_of(name, shapes) == kind


# ---- a grader's step


@pytest.mark.slow
def test_a_graders_step_is_made_of_its_parts(monkeypatch):
    """Of a real training; the table has a line for each size, and nothing else is measured."""
    step = grader_step(dict(os.environ), side=32, num_threads=1, words=(*TOY, *TINY_GRADER, "loader.epoch_size=64"))
    assert all(0 <= seconds < step["step_s"] for seconds in step["seconds"].values())
    assert sum(step["seconds"].values()) == pytest.approx(step["step_s"])
    parts = ("forward", "backward", "optimizer")
    assert step["network"] == pytest.approx(sum(step["seconds"][part] for part in parts) / step["step_s"])
    monkeypatch.setattr("acne_lab.jobs.bench.grader_step", lambda env, *, side, num_threads: step | {"side": side})
    report = bench(**arguments(["grader=true"]))
    assert [each["side"] for each in report["grader"]] == list(GRADER_SIDES)
    assert not report["results"]
    assert f"{step['network']:.1%}" in table(report)
    assert "256 px" in table(report)


@pytest.mark.slow
@pytest.mark.parametrize("side", GRADER_SIDES)
def test_a_graders_step_spends_its_time_in_the_network(side):
    """tf_efficientnet_lite0 at 224 px on a CPU, with the augmentation that graders have: at least 90 %."""
    step = grader_step(dict(os.environ), side=side, num_threads=1)
    print(step)
    assert step["network"] >= 0.9
