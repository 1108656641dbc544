"""What the figures of a study say in plain words, and what they cannot say.

With one seed nothing is decided: no test, no interval. With several each arm has the mean over its seeds with the 95 %
interval, and its difference to the study's baseline, seed by seed.
"""

from collections.abc import Iterable, Sequence

from acne_lab.metrics.statistics import Estimate
from acne_lab.report.collect import Arm, Stage, Study
from acne_lab.report.parts import NOT_RUN, counted, duration, score, shared_subjects


def summary_lines(study: Study) -> list[str]:
    """What the study job prints and the page begins with: at most five lines."""
    tested = [arm for arm in study.arms if arm.test]
    lines = [
        f"{study.name}: {counted(len(study.arms), 'arm')}, "
        f"{counted(len(study.classes), 'severity', 'severities')}, {_seeds(study)}"
    ]
    if tested:
        one_test_set = len({arm.test.get("num_test") for arm in tested}) == 1
        where = f" on {known(tested[0].test.get('num_test'))} test images" if one_test_set else ""
        if len(study.seeds) > 1:
            where += f", mean ± 95 % interval over {len(study.seeds)} seeds"
        scores = [
            f"{arm.name} {estimated(arm.estimate('balanced_accuracy'))}"
            + ("" if one_test_set else f" on {known(arm.test.get('num_test'))}")
            for arm in tested
        ]
        chance = f" (chance {score(1 / len(study.classes))})" if study.classes else ""
        lines.append(f"balanced accuracy{where}{chance}: {', '.join(scores)}")
    areas = {name: figures["auc"]["value"] for name, figures in study.realism.items() if "auc" in figures}
    if areas:
        words = ", ".join(f"{name} {score(area)}" for name, area in areas.items())
        lines.append(f"AUC of real vs edited lesions (a coin 0.5): {words}")
    missing = [arm.name for arm in study.arms if not arm.test]
    if missing:
        lines.append(f"{NOT_RUN}: {', '.join(missing)}")
    lines.append(_stages_line(study.stages))
    lines.append(f"report: {study.run}/report.html")
    return lines


def reading(study: Study) -> list[str]:
    """What the numbers say in plain words, and what they cannot say."""
    tested = [arm for arm in study.arms if arm.test.get("balanced_accuracy") is not None]
    said = []
    if len(tested) > 1:
        ranked = sorted(tested, key=lambda arm: arm.test["balanced_accuracy"], reverse=True)
        top, second, last = ranked[0], ranked[1], ranked[-1]
        gap = top.test["balanced_accuracy"] - second.test["balanced_accuracy"]
        said.append(
            f"Highest balanced accuracy: “{top.name}” ({score(top.test['balanced_accuracy'])}), "
            f"{100 * gap:.1f} points above “{second.name}”"
            + (f"; lowest: “{last.name}” ({score(last.test['balanced_accuracy'])})." if last is not second else ".")
        )
    if study.classes:
        chance = 1 / len(study.classes)
        low = [arm.name for arm in tested if arm.test["balanced_accuracy"] <= chance]
        if low:
            said.append(f"At or below chance ({score(chance)}), so learned nothing of use: {_quoted(low)}.")
    missing = [arm.name for arm in study.arms if arm not in tested]
    if missing:
        said.append(f"Not run or not finished: {_quoted(missing)}. The comparison is incomplete.")
    said += _of_seeds(study, tested) if len(study.seeds) > 1 else [_of_one_seed(study)]
    said += _grain(tested)
    learned = [arm.train["num_images"] for arm in tested if "num_images" in arm.train]
    if len(set(learned)) > 1:
        said.append(
            f"The arms learned from different numbers of images ({min(learned):,} to {max(learned):,}), "
            "so what the images are and how many there are cannot be told apart."
        )
    said += _budget(study)
    sizes = {arm.test.get("num_test") for arm in tested}
    if len(sizes) > 1:
        said.append("The arms were tested on different numbers of images, so their scores do not compare.")
    said += _lineage_of_arms(study)
    if study.uses_toy_images:
        said.append(
            "The faces are toy images drawn by code. The study shows that the pipeline works from end to "
            "end; it says nothing about acne."
        )
    if study.synthetic:
        said.append(
            "Synthetic does not mean anonymous: a generator trained on some hundred images can repeat them. "
            "This report has no measurement of that."
        )
    said.append("Research software, not a medical device: no number here may guide the care of a patient.")
    return said


def differences(study: Study) -> dict[str, Estimate]:
    """arm -> its balanced accuracy minus that of the baseline, seed by seed; {} of one seed."""
    base = baseline(study)
    if base is None:
        return {}
    others = [arm for arm in study.arms if arm is not base]
    found = {arm.name: arm.difference(base, "balanced_accuracy") for arm in others}
    return {name: estimate for name, estimate in found.items() if estimate and estimate.half_width is not None}


def baseline(study: Study) -> Arm | None:
    """The arm that the others are compared with; None where one seed, or one arm, allows no comparison."""
    if len(study.seeds) < 2 or len(study.arms) < 2:
        return None
    return next(arm for arm in study.arms if arm.name == study.baseline)


def estimated(estimate: Estimate | None) -> str:
    """A share in [0, 1], with the half width of its interval where it has one; `NOT_RUN` where there is none."""
    if estimate is None:
        return NOT_RUN
    if estimate.half_width is None:
        return score(estimate.mean)
    return f"{score(estimate.mean)} ± {score(estimate.half_width)}"


def _seeds(study: Study) -> str:
    return f"{len(study.seeds)} seeds" if len(study.seeds) > 1 else f"seed {known(study.seed)}"


def _of_one_seed(study: Study) -> str:
    return (
        f"This is one seed ({known(study.seed)}). Two runs of the same arm with different seeds often "
        "differ as much as two arms do, so one seed is no evidence for or against an arm: repeat with at "
        "least five, and compare in pairs, with intervals."
    )


def _of_seeds(study: Study, tested: Sequence[Arm]) -> list[str]:
    """What can be said of several seeds: which arms differ from the baseline by more than the luck of training."""
    said = [
        f"Each arm was trained {len(study.seeds)} times, with the seeds {', '.join(map(str, study.seeds))}; “±” is "
        "half the 95 % interval of the mean (Student's t over seeds). It holds the luck of training and nothing else: "
        "all were tested on the same images, and other people in the test set would move all arms."
    ]
    incomplete = [arm.name for arm in tested if sum(map(bool, arm.tests)) < len(arm.tests)]
    if incomplete:
        said.append(f"Not all seeds have been tested, so the means are of fewer: {_quoted(incomplete)}.")
    if compared := differences(study):
        above = [name for name, each in compared.items() if each.excludes_zero and each.mean > 0]
        below = [name for name, each in compared.items() if each.excludes_zero and each.mean < 0]
        rest = [name for name in compared if name not in (*above, *below)]
        words = [
            f"{verdict}: {_quoted(names)}"
            for verdict, names in (("better", above), ("worse", below), ("not told apart", rest))
            if names
        ]
        said.append(
            f"Against “{study.baseline}”, seed by seed, at 95 %: {'; '.join(words)}. "
            f"Of {counted(len(compared), 'comparison')} each errs in one case of twenty by chance alone."
        )
    return said


def _budget(study: Study) -> list[str]:
    """Whether all graders were shown as many images, however many their sets have."""
    loaders = [stage.config.get("loader", {}) for stage in study.graders]
    epochs = [stage.config.get("trainer", {}).get("max_epochs") for stage in study.graders]
    sizes = {(loader.get("epoch_size"), num) for loader, num in zip(loaders, epochs)}
    if len(study.graders) < 2 or len(sizes) > 1 or None in (pair := next(iter(sizes))):
        return []
    size, num = pair
    return [f"Every grader was shown the same number of images, {size * num:,} in {num} epochs, whatever its set."]


def _lineage_of_arms(study: Study) -> list[str]:
    """Whom the graders have seen: unknown parents, and the leak of published folds."""
    said = []
    unknown = [arm.name for arm in study.arms if not arm.lineage.get("known", True)]
    if unknown:
        said.append(
            "Learned from images whose photographs nobody has listed (allow_unknown_parents=true): "
            f"{_quoted(unknown)}. If these show people of the test set, the scores are too high; nobody can know."
        )
    if untold := [arm.name for arm in study.arms if arm.lineage and arm.lineage.get("leaked_share") is None]:
        said.append(
            "Nobody has told who is on the photographs, so how many test images show a person whom these graders "
            f"have seen is not known: {_quoted(untold)}. data.subject_pattern, a column subject or data.subjects=faces "
            "tell."
        )
    leaked = sorted({arm.lineage["leaked_share"] for arm in study.arms if arm.lineage.get("leaked_share")})
    if leaked:
        shares = " to ".join(f"{100 * share:.1f} %" for share in dict.fromkeys((leaked[0], leaked[-1])))
        said.append(
            f"The folds are the published ones: {shares} of the test images show a person whom the graders have seen "
            "in training, so the scores are too high for new people. data.protocol=subject splits by person."
        )
    elif study.real is not None and (shared := shared_subjects(study.real.table.rows)):
        said.append(
            f"{counted(shared, 'subject')} lie in more than one split: the grader has met people of its test "
            "set, and its scores are too high."
        )
    return said


def _grain(tested: Sequence[Arm]) -> list[str]:
    """How much one test image weighs: the finest difference this test set can show."""
    counts = next((arm.num_per_class for arm in tested if arm.num_per_class), {})
    counts = {name: number for name, number in counts.items() if number}
    if not counts:
        return []
    rarest = min(counts, key=counts.__getitem__)
    weight = 100 / counts[rarest]
    return [
        f"The rarest severity of the test set, “{rarest}”, has {counted(counts[rarest], 'image')}: each of "
        f"them moves its recall by {weight:.1f} points and balanced accuracy by {weight / len(counts):.1f}."
    ]


def _stages_line(stages: Sequence[Stage]) -> str:
    reused = [stage for stage in stages if stage.reused]
    run = [stage for stage in stages if stage.state == "done" and not stage.reused]
    rest = len(stages) - len(reused) - len(run)
    words = [
        f"{len(run)} run in {duration(sum(stage.seconds or 0 for stage in run))}",
        f"{len(reused)} reused",
    ]
    if rest:
        words.append(f"{rest} unfinished or not run")
    return f"{counted(len(stages), 'stage')}: {', '.join(words)}"


def known(value: object) -> str:
    """The value as text; `NOT_RUN` for None."""
    return NOT_RUN if value is None else str(value)


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"“{name}”" for name in names)
