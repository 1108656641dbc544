"""Lesions of edits against lesions of authentic photographs, and these against themselves as a control."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from tqdm import tqdm

from acne_lab.jobs.patches import Patches, features_of
from acne_lab.metrics.realism import match_sizes, rim_contrast
from acne_lab.metrics.two_sample import (
    MIN_SUBJECTS,
    Interval,
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
        patches: file_name, subject, severity, box, size, set ("real" or "edited"), pair, score (the higher, the more it
            looks edited to classifiers that have not learned from its subject), rim.
        pixels: uint8 [len(patches), S, S, 3].
    """

    figures: dict[str, Interval]
    patches: pd.DataFrame
    pixels: np.ndarray


def compare(real: Patches, made: Patches, *, num_pairs: int, seed: int) -> tuple[Comparison | None, list[str]]:
    """Real and edited lesions of matched sizes, and their control; or None. With it, what could not be compared."""
    rng = np.random.default_rng(seed)
    kept = [evened(patches.frame["subject"], rng) for patches in (real, made)]
    sizes = [patches.frame["size"].to_numpy(dtype=float)[part] for patches, part in zip((real, made), kept)]
    pairs = np.stack([part[chosen] for part, chosen in zip(kept, match_sizes(*sizes, rng))])
    pairs = pairs[:, rng.permutation(pairs.shape[1])[:num_pairs]]
    (real_pixels, real_rows), (made_pixels, made_rows) = (
        patches.only(part) for patches, part in zip((real, made), pairs)
    )
    fewest = min(real_rows["subject"].nunique(), made_rows["subject"].nunique())
    if fewest < MIN_SUBJECTS or real_rows["subject"].nunique() < 2 * MIN_SUBJECTS:
        why_not = (
            f"Lesions were not compared: of {len(made.rows)} edited and {len(real.rows)} real lesions, "
            f"{pairs.shape[1]} pairs of one size are left, of {real_rows['subject'].nunique()} authentic and "
            f"{made_rows['subject'].nunique()} edited subjects; it takes {2 * MIN_SUBJECTS} and {MIN_SUBJECTS}. "
            "reference=train has more people, but lesions of a bank are then on both sides."
        )
        return None, [why_not]
    content, texture = features_of(np.concatenate([real_pixels, made_pixels]))
    rims = np.log(rim_contrast(np.concatenate([real_pixels, made_pixels])))
    people = [*real_rows["subject"], *made_rows["subject"]]
    num = len(real_rows)

    def sample(features: np.ndarray, keep: np.ndarray) -> Sample:
        return Sample(features[keep], np.asarray(people)[keep])

    def told_apart(x: np.ndarray, y: np.ndarray, **repeats: int) -> tuple[dict[str, Interval], np.ndarray]:
        both = np.hstack([content, texture])
        auc, scores = classifier_auc(sample(both, x), sample(both, y), seed=seed, **repeats)
        kd = kernel_distance(sample(content, x), sample(content, y), seed=seed)
        names = np.asarray(people)
        rim = exponential(difference_of_means(rims[x], rims[y], names[x], names[y], seed=seed))
        return {"auc": auc, "kd": kd, "rim": rim}, scores

    everything = np.arange(2 * num)
    figures, scores = told_apart(everything[:num], everything[num:])
    controls = []
    for split in tqdm(range(NUM_CONTROLS), desc="controls"):
        first, second = (np.flatnonzero(half) for half in halves(sample(content, everything[:num]), seed=seed + split))
        i, j = match_sizes(*(real_rows["size"].to_numpy(dtype=float)[half] for half in (first, second)), rng)
        first, second = first[i], second[j]
        if min(real_rows["subject"].iloc[half].nunique() for half in (first, second)) >= MIN_SUBJECTS:
            controls.append(told_apart(first, second, num_repeats=1)[0])
    notes = []
    if controls:
        averages = {name: Interval.averaged([control[name] for control in controls]) for name in figures}
        figures |= {f"{name}_control": average for name, average in averages.items()}
    else:
        notes.append(
            f"Authentic lesions were not compared among themselves: in none of {NUM_CONTROLS} ways to halve the people "
            f"do both halves have {MIN_SUBJECTS} with lesions of matched sizes."
        )
    patches = pd.concat([real_rows.assign(set="real"), made_rows.assign(set="edited")], ignore_index=True)
    patches = patches.assign(pair=np.tile(np.arange(num), 2), score=scores.round(4), rim=np.exp(rims).round(4))
    return Comparison(figures=figures, patches=patches, pixels=np.concatenate([real_pixels, made_pixels])), notes


def exponential(estimate: Interval) -> Interval:
    """Of the mean of logarithms: the geometric mean."""
    return Interval(*(float(np.exp(figure)) for figure in (estimate.value, estimate.low, estimate.high)))
