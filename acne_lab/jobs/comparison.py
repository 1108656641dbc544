"""Lesions of edits against lesions of authentic photographs, with two controls.

Halves of the authentic people say how far the figures stray where nothing differs. Lesions that the edited photographs
had before, against the same authentic lesions, say what tells these photographs from those already: other people, other
cameras, a lower severity. What an edit gives away is what goes beyond the second.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from tqdm import tqdm

from acne_lab.jobs.patches import LesionPatches, features_of
from acne_lab.metrics.realism import match_sizes, rim_contrast
from acne_lab.metrics.two_sample import (
    MIN_SUBJECTS,
    Measured,
    Resampled,
    Sample,
    classifier_auc,
    difference_of_means,
    evened,
    halves,
    kernel_distance,
)

NUM_CONTROLS = 8  # ways to halve the authentic subjects; how a few people happen to be dealt out matters much


@dataclass(frozen=True)
class Comparison:
    """What the patches said.

    Args:
        figures: auc, kd (kernel distance of contents) and rim (steepness, edited over real), each also as
            NAME_control: of two halves of the authentic subjects, mean of NUM_CONTROLS ways to halve them; missing
            where halves of matched sizes have fewer than MIN_SUBJECTS people.
            NAME_unedited: of lesions that the parents of the edits had before, against the same authentic lesions; and
            NAME_excess: how far NAME is above it (rim: NAME over it), subjects resampled for both at once. Both missing
            where fewer than MIN_SUBJECTS of these people had lesions of matched sizes.
        patches: file_name, subject, severity, box, size, set ("real" or "edited"), pair, score (the higher, the more it
            looks edited to classifiers that have not learned from its subject), rim.
        pixels: uint8 [len(patches), S, S, 3].
    """

    figures: dict[str, Measured]
    patches: pd.DataFrame
    pixels: np.ndarray


def compare(
    real: LesionPatches, made: LesionPatches, own: LesionPatches, *, num_pairs: int, seed: int
) -> tuple[Comparison | None, list[str]]:
    """Lesions of matched sizes, and controls; or None. With it, what could not be compared, and why.

    Args:
        real: authentic lesions of other people.
        made: lesions that were added by edits.
        own: lesions of the photographs that were edited, before that.
        num_pairs: at most so many of each.
        seed: of the matching, the folds and the resamples.
    """
    notes = []
    chosen = matched((real, made, own), num_pairs=num_pairs, seed=seed)
    if own.frame["subject"].iloc[chosen[2]].nunique() < MIN_SUBJECTS:
        notes.append(
            f"The photographs that were edited have {len(own.rows)} lesions of their own, too few of the sizes of the "
            f"edited ones for {MIN_SUBJECTS} people: nothing says how much these photographs differ from the authentic "
            "ones without any edit."
        )
        chosen = matched((real, made), num_pairs=num_pairs, seed=seed)
    sets = [patches.only(part) for patches, part in zip((real, made, own), chosen)]
    real_rows, made_rows = (rows for _, rows in sets[:2])
    num = len(real_rows)
    fewest = min(real_rows["subject"].nunique(), made_rows["subject"].nunique())
    if fewest < MIN_SUBJECTS or real_rows["subject"].nunique() < 2 * MIN_SUBJECTS:
        why_not = (
            f"Lesions were not compared: of {len(made.rows)} edited and {len(real.rows)} real lesions, "
            f"{num} pairs of one size are left, of {real_rows['subject'].nunique()} authentic and "
            f"{made_rows['subject'].nunique()} edited subjects; it takes {2 * MIN_SUBJECTS} and {MIN_SUBJECTS}. "
            "reference=train has more people, but lesions of a bank are then on both sides."
        )
        return None, [why_not]
    pixels = np.concatenate([part for part, _ in sets])
    content, texture = features_of(pixels)
    both, rims = np.hstack([content, texture]), np.log(rim_contrast(pixels))
    people = np.concatenate([rows["subject"].to_numpy(dtype=str) for _, rows in sets])
    a, b, *unedited = np.split(np.arange(len(people)), len(sets))  # where the sets lie

    def told_apart(x: np.ndarray, y: np.ndarray, **options) -> tuple[dict[str, Resampled], np.ndarray]:
        auc, scores = classifier_auc(Sample(both[x], people[x]), Sample(both[y], people[y]), seed=seed, **options)
        options.pop("num_repeats", None)
        kd = kernel_distance(Sample(content[x], people[x]), Sample(content[y], people[y]), seed=seed, **options)
        return {"auc": auc, "kd": kd}, scores

    def rim(x: np.ndarray, y: np.ndarray) -> Measured:
        return exponential(difference_of_means(rims[x], rims[y], people[x], people[y], seed=seed))

    sides = (people[a], people[num:])
    found, scores = told_apart(a, b, people=sides)
    figures = {name: estimate.interval for name, estimate in found.items()} | {"rim": rim(a, b)}
    for c in unedited:
        before = told_apart(a, c, people=sides)[0]
        figures |= {f"{name}_unedited": estimate.interval for name, estimate in before.items()}
        figures |= {f"{name}_excess": found[name].minus(estimate).interval for name, estimate in before.items()}
        figures |= {"rim_unedited": rim(a, c), "rim_excess": rim(c, b)}
    controls = []
    for split in tqdm(range(NUM_CONTROLS), desc="controls"):
        first, second = (np.flatnonzero(half) for half in halves(Sample(content[a], people[a]), seed=seed + split))
        rng = np.random.default_rng((seed, split))
        i, j = match_sizes(*(real_rows["size"].to_numpy(dtype=float)[half] for half in (first, second)), rng)
        first, second = first[i], second[j]
        if min(len(set(people[half])) for half in (first, second)) >= MIN_SUBJECTS:
            control = {name: e.interval for name, e in told_apart(first, second, num_repeats=1)[0].items()}
            controls.append(control | {"rim": rim(first, second)})
    if controls:
        averages = {name: Measured.averaged([control[name] for control in controls]) for name in controls[0]}
        figures |= {f"{name}_control": average for name, average in averages.items()}
    else:
        notes.append(
            f"Authentic lesions were not compared among themselves: in none of {NUM_CONTROLS} ways to halve the people "
            f"do both halves have {MIN_SUBJECTS} with lesions of matched sizes."
        )
    patches = pd.concat([real_rows.assign(set="real"), made_rows.assign(set="edited")], ignore_index=True)
    patches = patches.assign(
        pair=np.tile(np.arange(num), 2), score=scores.round(4), rim=np.exp(rims[: 2 * num]).round(4)
    )
    return Comparison(figures=figures, patches=patches, pixels=pixels[: 2 * num]), notes


def matched(sets: tuple[LesionPatches, ...], *, num_pairs: int, seed: int) -> list[np.ndarray]:
    """Indices [K <= num_pairs] into each set: the k-th lesion of each has about the size of the first set's k-th."""
    rng = np.random.default_rng(seed)
    frames = [patches.frame for patches in sets]
    first, *others = (evened(frame["subject"], rng) for frame in frames)
    chosen = [first]
    for frame, other in zip(frames[1:], others):
        sizes = (frames[0]["size"].to_numpy(dtype=float)[chosen[0]], frame["size"].to_numpy(dtype=float)[other])
        i, j = match_sizes(*sizes, rng)
        chosen = [*(part[i] for part in chosen), other[j]]
    order = rng.permutation(len(chosen[0]))[:num_pairs]
    return [part[order] for part in chosen]


def exponential(estimate: Measured) -> Measured:
    """Of the mean of logarithms: the geometric mean."""
    return Measured(*(float(np.exp(figure)) for figure in (estimate.value, estimate.low, estimate.high)))
