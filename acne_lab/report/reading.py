"""What the figures of a study say in plain words, and what they cannot say.

The answer comes first: which arms are better than the baseline, which are worse, which cannot be told from it. How that
was decided is `comparison`'s; a difference that is not significant is called one. Arms that are there to test the
instrument, with labels that say nothing or with people of the test set, never count as an answer.
"""

from collections.abc import Iterable, Mapping, Sequence

from acne_lab.metrics.statistics import Estimate
from acne_lab.report.arms import PRIMARY, Arm
from acne_lab.report.collect import Stage, Study
from acne_lab.report.comparison import BETTER, NOT_TESTED, NOT_TOLD_APART, ONE_SEED, WORSE, Contrast
from acne_lab.report.parts import NOT_RUN, counted, duration, score, shared_subjects

MANY_ARMS = 12  # from which on the summary names no score of each


def answer(study: Study) -> list[str]:
    """What the study answers, in a few sentences; [] of a study without two tested arms that has its baseline."""
    compared = study.compared.labels or study.compared.arms
    if not compared:
        return _without_baseline(study)
    arms = {name: arm for arm in study.arms for name in (arm.name, arm.label)}
    controls = {name for name in compared if study.role(arms[name]) in ("null", "leaked")}
    asked = {name: each for name, each in compared.items() if name not in controls}
    baseline = next(iter(compared.values())).baseline
    over = f" over all {len(study.backbones)} backbones" if study.compared.labels else ""
    said = []
    better, worse, rest, untested, of_one_seed = (
        _by_size(asked, verdict) for verdict in (BETTER, WORSE, NOT_TOLD_APART, NOT_TESTED, ONE_SEED)
    )
    if better:
        said.append(f"Better than “{baseline}”{over}: {', '.join(_told(*each) for each in better)}.")
    elif worse or rest:
        said.append(f"No arm is shown to be better than “{baseline}”{over}.")
    if worse:
        said.append(f"Worse: {', '.join(_told(*each) for each in worse)}.")
    if rest:
        said.append(f"Not told apart from “{baseline}”: {', '.join(_untold(*each) for each in rest)}.")
    if untested:
        names = ", ".join(f"“{name}” {points(each.difference.mean)}" for name, each in untested)
        said.append(f"Not tested, for want of predictions of both: {names} points.")
    if of_one_seed:
        names = ", ".join(_untold(*each) for each in of_one_seed)
        said.append(f"One seed compares these graders on these people, not the ways to train them: {names}.")
    return said + _controls(study, {name: compared[name] for name in compared if name in controls}, arms)


def _without_baseline(study: Study) -> list[str]:
    """Which arm to add where arms were tested and the one that they are to be compared with was not run."""
    if not any(arm.test for arm in study.arms) or any(study.is_baseline(arm) for arm in study.arms):
        return []
    missing = f"“{study.baseline}”, the baseline," if study.baseline else "the study's baseline"
    return [f"Nothing is compared: {missing} was not run. Add it to the arms, with the same seeds, and repeat."]


def _by_size(compared: Mapping[str, Contrast], verdict: str) -> list[tuple[str, Contrast]]:
    found = [(name, each) for name, each in compared.items() if each.verdict == verdict]
    return sorted(found, key=lambda pair: pair[1].difference.mean, reverse=True)


def _told(name: str, each: Contrast) -> str:
    return f"“{name}” by {100 * abs(each.difference.mean):.1f} points ({interval(each)}, p {probability(each.p_holm)})"


def _untold(name: str, each: Contrast) -> str:
    return f"“{name}” ({points(each.difference.mean)} points, {interval(each)}, p {probability(each.p_holm)})"


def _controls(study: Study, compared: Mapping[str, Contrast], arms: Mapping[str, Arm]) -> list[str]:
    """What the arms say that test the instrument: it must find nothing where there is nothing, and a leak must show."""
    said = []
    for name, each in compared.items():
        same = [arm for arm in study.arms if name in (arm.name, arm.label)]
        by = f"{points(each.difference.mean)} points, {each.verdict}"
        if arms[name].null == "all":
            means = [arm.estimate(PRIMARY).mean for arm in same if arm.estimate(PRIMARY)]
            said.append(
                f"The null “{name}” learned from labels dealt anew: {score(sum(means) / len(means))}, "
                f"chance {score(1 / len(study.classes))}."
            )
        elif arms[name].null:
            said.append(f"The null “{name}” ({by}) got as many images, their labels dealt anew.")
        else:
            share = max(arm.leaked_share for arm in same)
            said.append(
                f"“{name}” ({points(each.difference.mean)} points) has seen the people of {100 * share:.0f} % of the "
                "test images: what a leak does, not what an arm can."
            )
    return said


def summary_lines(study: Study) -> list[str]:
    """What the study job prints, the answer among it."""
    what = [counted(len(study.arms), "arm")] if study.arms else []
    if study.backbones:
        what.append(counted(len(study.backbones), "backbone"))
    if study.realism:
        what.append(counted(len(study.realism), "set of edits", "sets of edits"))
    what += [counted(len(study.classes), "severity", "severities")] if study.classes else []
    lines = [f"{study.name}: {', '.join([*what, _seeds(study)])}"]
    if scores := _scores(study):
        lines.append(scores)
    lines += answer(study)
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


def _scores(study: Study) -> str:
    """Balanced accuracy of every arm; of many arms, of the baseline with every backbone."""
    tested = [arm for arm in study.arms if arm.estimate(PRIMARY)]
    if not tested:
        return ""
    one_test_set = len({arm.test.get("num_test") for arm in tested}) == 1
    where = f" on {known(tested[0].test.get('num_test'))} test images" if one_test_set else ""
    if len(study.seeds) > 1:
        where += f", mean ± 95 % interval over {len(study.seeds)} seeds"
    chance = f" (chance {score(1 / len(study.classes))})" if study.classes else ""
    whose = ""
    if len(tested) > MANY_ARMS and (shown := [arm for arm in tested if study.is_baseline(arm)]):
        tested, whose = shown, f" of “{shown[0].label}”"
    words = [
        f"{arm.name if not whose else arm.group or arm.name} {estimated(arm.estimate(PRIMARY))}"
        + ("" if one_test_set else f" on {known(arm.test.get('num_test'))}")
        for arm in tested
    ]
    return f"balanced accuracy{whose}{where}{chance}: {', '.join(words)}"


def reading(study: Study) -> list[str]:
    """What the numbers say in plain words, and what they cannot say."""
    tested = [arm for arm in study.arms if arm.test.get(PRIMARY) is not None]
    said = []
    fair = [arm for arm in tested if not arm.is_leaked]
    if len(fair) > 1:
        ranked = sorted(fair, key=lambda arm: arm.test[PRIMARY], reverse=True)
        top, second, last = ranked[0], ranked[1], ranked[-1]
        gap = top.test[PRIMARY] - second.test[PRIMARY]
        said.append(
            f"Highest balanced accuracy: “{top.name}” ({score(top.test[PRIMARY])}), "
            f"{100 * gap:.1f} points above “{second.name}”"
            + (f"; lowest: “{last.name}” ({score(last.test[PRIMARY])})." if last is not second else ".")
            + " A rank is no finding: whether a difference can be told from luck is said in the table."
        )
    if study.classes:
        chance = 1 / len(study.classes)
        low = [arm.name for arm in tested if arm.test[PRIMARY] <= chance]
        if low:
            said.append(f"At or below chance ({score(chance)}), so learned nothing of use: {_quoted(low)}.")
    missing = [arm.name for arm in study.arms if arm not in tested]
    if missing:
        said.append(f"Not run or not finished: {_quoted(missing)}. The comparison is incomplete.")
    said += _of_seeds(study, tested) if len(study.seeds) > 1 else [_of_one_seed(study)]
    said += _of_people(study)
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
        said.append(
            "The arms were tested on different numbers of images, so their scores do not compare; a difference with a "
            "p is of the images that both were tested on."
        )
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


# -------------------------------------------------------------------------------- how figures are written


def estimated(estimate: Estimate | None, digits: int = 3) -> str:
    """A figure, with the half width of its interval where it has one; `NOT_RUN` where there is none."""
    if estimate is None:
        return NOT_RUN
    mean = f"{estimate.mean:.{digits}f}"
    return mean if estimate.half_width is None else f"{mean} ± {estimate.half_width:.{digits}f}"


def points(difference: float) -> str:
    """A difference of two shares in points, with its sign."""
    return f"{100 * difference:+.1f}".replace("-", "\N{MINUS SIGN}")


def interval(each: Contrast) -> str:
    """That of a difference over seeds, in points; of one seed that over people."""
    mean, half = each.difference.mean, each.difference.half_width
    if half is not None:
        return f"{points(mean - half)} to {points(mean + half)}"
    return "no interval" if each.people is None else f"{points(each.people[0])} to {points(each.people[1])}"


def probability(p: float | None) -> str:
    """A p value with three digits; "" where there is none."""
    if p is None:
        return ""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _seeds(study: Study) -> str:
    return f"{len(study.seeds)} seeds" if len(study.seeds) > 1 else f"seed {known(study.seed)}"


def _of_one_seed(study: Study) -> str:
    return (
        f"This is one seed ({known(study.seed)}). Two runs of the same arm with different seeds often "
        "differ as much as two arms do, so one seed is no evidence for or against an arm: repeat with at "
        "least five, and compare in pairs, with intervals."
    )


def _of_seeds(study: Study, tested: Sequence[Arm]) -> list[str]:
    """What intervals over seeds hold, and which arms have fewer."""
    said = [
        f"Each arm was trained {len(study.seeds)} times, with the seeds {', '.join(map(str, study.seeds))}; “±” is "
        "half the 95 % interval of the mean (Student's t over seeds). It holds the luck of training and nothing else: "
        "all were tested on the same images, and other people in the test set would move all arms."
    ]
    incomplete = [arm.name for arm in tested if arm.num_tested < len(arm.tests)]
    if incomplete:
        said.append(f"Not all seeds have been tested, so the means are of fewer: {_quoted(incomplete)}.")
    if study.left_out:
        said.append(
            f"{counted(len(study.left_out), 'grader')} of seeds that not all arms have are left out: "
            f"{_quoted(study.left_out[:5])}{' and more' if len(study.left_out) > 5 else ''}."
        )
    return said


def _of_people(study: Study) -> list[str]:
    """How differences were tested; which figures could not be recomputed."""
    said = []
    families = [family for family in (study.compared.labels, study.compared.arms) if family]
    tested = [each for family in families for each in family.values() if each.p is not None]
    if tested:
        numbers = [sum(each.p is not None for each in family.values()) for family in families]
        sizes = " and of ".join(counted(number, "comparison") for number in numbers)
        fewest, most = min(e.num_people for e in tested), max(e.num_people for e in tested)
        people = f"{fewest:,}" if fewest == most else f"{fewest:,} to {most:,}"
        said.append(
            f"p: the two arms' answers are swapped person by person ({people} people, all seeds together), "
            "and p is how often chance makes as large a difference of balanced accuracy. “p, Holm” is corrected for "
            f"the family of {sizes}. “Better” and “worse” need this p below 0.05 and an interval over seeds without 0, "
            "so several seeds. “Not told apart” does not mean equal: the interval says how large a difference may be."
        )
    said += [
        f"The predictions of “{stage.name}” cannot be read: remove runs/{stage.run} and repeat the study."
        for stage in study.stages
        if stage.has_broken_predictions
    ]
    noted = [arm.name for arm in study.arms if arm.num_noted]
    if noted and len(noted) == sum(bool(arm.test) for arm in study.arms):
        said.append(
            "No grader has left predictions that can be read, so all figures are as the runs noted them, and untested."
        )
    elif noted:
        said.append(f"As the runs noted them, not recomputed, for want of predictions: {_quoted(noted)}.")
    return said


def _budget(study: Study) -> list[str]:
    """Whether all graders were shown as many images, however many their sets have."""
    if any(stage.config.get("patience") is not None for stage in study.graders):  # some may have ended earlier
        return []
    loaders = [stage.config.get("loader", {}) for stage in study.graders]
    epochs = [stage.config.get("trainer", {}).get("max_epochs") for stage in study.graders]
    sizes = {(loader.get("epoch_size"), num) for loader, num in zip(loaders, epochs)}
    if len(study.graders) < 2 or len(sizes) > 1 or None in (pair := next(iter(sizes))):
        return []
    size, num = pair
    return [
        f"Every grader was shown the same number of images, {size * num:,} in "
        f"{counted(num, 'epoch')}, whatever its set."
    ]


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
    fair = [arm for arm in study.arms if not arm.is_leaked]
    leaked = sorted({arm.leaked_share for arm in fair if arm.leaked_share})
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
