"""Which photographs are edited into which severity, before a pixel is touched.

The plan of a balanced table follows from its rows and a seed: how many images each severity lacks (`deficits`), which
photograph each of them is made from and how many lesions it gets (`plan_edits`). It depends on no order of rows.

It does not know whether an edit succeeds: an editor may find no skin. So every severity has spares, in order.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import combinations, cycle
from typing import Literal

import numpy as np
import pandas as pd

from acne_lab.data.acne04 import HAYASHI_BANDS

Sources = Literal["lower", "same", "lower_or_same"] | Mapping[str, Sequence[str]]

COLUMNS = (
    "severity",
    "number",
    "is_spare",
    "file_name",
    "subject",
    "source_severity",
    "tone",
    "lesions_before",
    "num_added",
    "seed",
)
MOST_LESIONS = 65  # of an ACNE04 photograph: the end of the open band where no photograph of the table says otherwise


def bands_of(classes: Sequence[str]) -> dict[str, tuple[int, int | None]]:
    """class -> (fewest, most) lesions, by Hayashi's bands; the last has no end (None).

    Raises:
        ValueError: there are not four classes, so nobody knows their bands.
    """
    if len(classes) != len(HAYASHI_BANDS):
        raise ValueError(
            f"edits are graded by the {len(HAYASHI_BANDS)} Hayashi bands of lesion counts, and this table has "
            f"{len(classes)} classes: {', '.join(classes)}. Prepare it with four classes, from mild to very severe"
        )
    fewest = [0, *(most + 1 for most in HAYASHI_BANDS if most is not None)]
    return dict(zip(classes, zip(fewest, HAYASHI_BANDS, strict=True), strict=True))


def class_counts(
    rows: pd.DataFrame, classes: Sequence[str], *, count: Literal["all", "train", "none"]
) -> dict[str, int]:
    """Images of each class: of the whole table, as published tables count, of its training rows, or none."""
    if count not in ("all", "train", "none"):
        raise ValueError(f"balance.count must be all, train or none, not {count!r}")
    counted = {"all": rows, "train": rows[rows["split"] == "train"], "none": rows[:0]}[count]
    return {name: int((counted["severity"] == name).sum()) for name in classes}


def fillable_classes(classes: Sequence[str], sources: Sources) -> dict[str, list[str]]:
    """class -> the classes whose photographs may be edited into it; classes without any are left out.

    Args:
        classes: from mild to severe.
        sources: `lower`: milder ones; `same`: the class itself, with more lesions; or both. Or a mapping of one's own.

    Raises:
        ValueError: another word, or a class that does not exist.
    """
    if isinstance(sources, str):
        words = {
            "lower": {name: classes[:i] for i, name in enumerate(classes)},
            "same": {name: [name] for name in classes},
            "lower_or_same": {name: classes[: i + 1] for i, name in enumerate(classes)},
        }
        if sources not in words:
            raise ValueError(f"balance.sources must be {', '.join(words)} or a mapping, not {sources!r}")
        found = {name: list(given) for name, given in words[sources].items()}
    else:
        found = {name: list(given) for name, given in sources.items()}
    if unknown := {*found, *(name for given in found.values() for name in given)} - set(classes):
        raise ValueError(f"balance.sources names {', '.join(sorted(unknown))}; the classes are {', '.join(classes)}")
    return {name: given for name, given in found.items() if given}


def deficits(
    counts: Mapping[str, int],
    *,
    fillable: Sequence[str],
    targets: Mapping[str, int | None] | None = None,
    ratio: float | None = None,
    budget: int | None = None,
) -> dict[str, int]:
    """How many images each class is to get; classes that get none are left out.

    Args:
        counts: images of each class, from mild to severe.
        fillable: the classes that images can be made for. `ratio` and `budget` leave the others as they are.
        targets: class -> images that it shall have; None leaves a class as it is.
        ratio: images that each class shall have at least, as a share of the largest; 1: as many.
        budget: images in all; each goes to the class that has the fewest by then.

    Raises:
        ValueError: not exactly one of the three is given, a target names an unknown class or one that cannot be
            filled, no class can be filled, or nothing is to be added.
    """
    given = {"targets": targets, "ratio": ratio, "budget": budget}
    if sum(value is not None for value in given.values()) != 1:
        raise ValueError(
            "give exactly one of balance.targets, balance.ratio and balance.budget (the others =null), not "
            + (", ".join(f"{name}={value}" for name, value in given.items() if value is not None) or "none")
        )
    if not fillable:
        raise ValueError(
            f"images can be made for no class: let balance.sources (or balance.run) name some of {', '.join(counts)}"
        )
    if targets is not None:
        wanted = {str(name): number for name, number in targets.items() if number is not None}
        if unknown := set(wanted) - set(counts):
            raise ValueError(
                f"balance.targets names {', '.join(sorted(unknown))}, but the classes are {', '.join(counts)}"
            )
        lacking = {name: wanted[name] - number for name, number in counts.items() if name in wanted}
        if barred := [name for name, number in lacking.items() if number > 0 and name not in fillable]:
            raise ValueError(
                f"balance.targets wants more {', '.join(barred)} images, and nothing may be made into them: "
                "lower the target, or let more classes be sources (balance.sources=lower_or_same)"
            )
    elif ratio is not None:
        if not 0 < ratio <= 1:
            raise ValueError(f"balance.ratio is a share of the largest class, above 0 and up to 1, not {ratio}")
        level = math.ceil(Fraction(str(ratio)) * max(counts.values()))  # 0.1 of 30 is 3, in floats a little more
        lacking = {name: level - number for name, number in counts.items() if name in fillable}
    else:
        lacking = _water_filling({name: number for name, number in counts.items() if name in fillable}, budget)
    lacking = {name: number for name, number in lacking.items() if number > 0}
    if not lacking:
        having = ", ".join(f"{name} {number}" for name, number in counts.items())
        raise ValueError(f"there is nothing to add: the table has {having}. Raise balance.targets, ratio or budget")
    return lacking


def _water_filling(counts: Mapping[str, int], budget: int) -> dict[str, int]:
    """Share `budget` so that the smallest classes rise first, to one level; of equal ones the most severe."""
    filled, severest_first = dict(counts), list(counts)[::-1]
    for _ in range(budget):
        filled[min(severest_first, key=filled.get)] += 1
    return {name: filled[name] - counts[name] for name in counts}


def plan_edits(
    rows: pd.DataFrame,
    classes: Sequence[str],
    lacking: Mapping[str, int],
    *,
    sources: Sources = "lower",
    max_per_source: int = 1,
    seed: int = 0,
) -> pd.DataFrame:
    """Choose a training photograph and a lesion count for every image that is lacking, and spares.

    Nobody is used twice before everyone has been used once, no photograph twice before every photograph of its person;
    among people who are equal in this, the skin tones take turns within each severity. Every edit's lesion count after
    it is drawn from those of the training photographs of the severity.

    Args:
        rows: of an image table; a column `skin_tone` (any labels) or `ita` (degrees) tells the tones apart. Sources
            are the training rows of photographs (real or toy) whose lesions are counted.
        classes: the table's, from mild to severe: as many as Hayashi's bands.
        lacking: class -> number of edits, as `deficits` says.
        sources: see `fillable_classes`.
        max_per_source: how often one photograph may be used in all, spares included.
        seed: of the choice among equals, the counts, and each edit's own seed.

    Returns:
        the columns of COLUMNS, in the order in which to work. `number` counts within a severity; spares follow, as
        many as there are sources left for. `lesions_before` + `num_added` >= 1 lies in the band.

    Raises:
        ValueError: not four classes, no counted lesions, or fewer sources than edits: says how many, and which
            max_per_source would do.
    """
    if max_per_source < 1:
        raise ValueError(f"balance.max_per_source must be at least 1, not {max_per_source}")
    bands, source_classes = bands_of(classes), fillable_classes(classes, sources)
    photos = rows[(rows["split"] == "train") & rows["source"].isin(("real", "toy"))]
    if photos["lesions"].isna().all():
        raise ValueError(
            "an edit needs to know how many lesions its source has, and no training photograph of this table has a "
            "count: give metadata.csv a column lesions"
        )
    photos = photos[photos["lesions"].notna()].sort_values("file_name", ignore_index=True)
    lesions = photos["lesions"].to_numpy(dtype=np.int64)
    counts = {name: _counts_to_draw(photos, name, bands[name]) for name in lacking}
    is_source = {
        name: photos["severity"].isin(source_classes.get(name, ())).to_numpy() & (lesions < counts[name].max())
        for name in lacking
    }
    _require_enough(is_source, lacking, max_per_source)

    planned = []
    for name, number, is_spare, i, use in _deal(photos, is_source, lacking, max_per_source, seed):
        photo = photos.iloc[i]
        edit_seed = _edit_seed(seed, photo["file_name"], name, use)
        eligible = counts[name][counts[name] > lesions[i]]
        after = int(np.random.default_rng(edit_seed).choice(eligible))
        edit = (photo["file_name"], photo["subject"], photo["severity"], tone_of(photo), lesions[i], after - lesions[i])
        planned.append((name, number, is_spare, *edit, edit_seed))
    return pd.DataFrame(planned, columns=list(COLUMNS))


def tone_of(row: pd.Series) -> str:
    """A photograph's stratum: its `skin_tone`; "" where unknown."""
    return str(row["skin_tone"]) if pd.notna(row.get("skin_tone")) else ""


def _counts_to_draw(photos: pd.DataFrame, severity: str, band: tuple[int, int | None]) -> np.ndarray:
    """Lesion counts int64 of the photographs of a severity that lie in its band, as often as they occur.

    Where none does, or only the band's least count, every count of the band once.
    """
    fewest, most = band
    found = photos.loc[photos["severity"] == severity, "lesions"].to_numpy(dtype=np.int64)
    found = found[(found >= fewest) & (found <= (most if most is not None else found))]
    if len(found) and found.max() > fewest:
        return np.sort(found)
    return np.arange(fewest, (MOST_LESIONS if most is None else most) + 1)


def _require_enough(is_source: Mapping[str, np.ndarray], lacking: Mapping[str, int], max_per_source: int) -> None:
    """Hall's condition: any severities together have as many sources as edits. It is also sufficient."""
    for group in _groups(lacking):
        num_sources = int(np.any([is_source[name] for name in group], axis=0).sum())
        num_edits = sum(lacking[name] for name in group)
        if num_edits > max_per_source * num_sources:
            needed = -(-num_edits // num_sources) if num_sources else None
            remedy = f"allow more with balance.max_per_source={needed}" if needed else "let more classes be sources"
            raise ValueError(
                f"{num_edits} edits into {' and '.join(group)} are wanted, but {num_sources} training photographs can "
                f"be their sources and each may be used {max_per_source} times, which makes "
                f"{max_per_source * num_sources}: {remedy} (balance.sources), or lower the target"
            )


def _groups(names: Sequence[str]) -> list[tuple[str, ...]]:
    """All subsets but the empty one, the smaller ones first."""
    return [group for size in range(1, len(names) + 1) for group in combinations(names, size)]


def _deal(
    photos: pd.DataFrame,
    is_source: Mapping[str, np.ndarray],
    lacking: Mapping[str, int],
    max_per_source: int,
    seed: int,
) -> list[tuple[str, int, bool, int, int]]:
    """(severity, number in it, is it a spare, index of its photograph, how often that was used before), in order.

    Greedy, and yet it never runs out before the last edit: a photograph is left to other severities where these
    could not do without it (Hall's condition holds with equality for a group of them).
    """
    # A file without a known person is a person of its own.
    people = pd.factorize(photos["subject"].where(photos["subject"] != "", photos["file_name"]))[0]
    tones = pd.factorize(np.array([tone_of(photo) for _, photo in photos.iterrows()], dtype=object))[0]
    lots = np.random.default_rng(seed).permutation(len(photos))
    photo_uses = np.zeros(len(photos), np.int64)
    person_uses = np.zeros(people.max(initial=0) + 1, np.int64)
    tone_uses = {name: np.zeros(tones.max(initial=0) + 1, np.int64) for name in lacking}
    left = dict(lacking)
    groups = {group: np.any([is_source[name] for name in group], axis=0) for group in _groups(lacking)}

    paced = [name for _, name in sorted((i / number, name) for name, number in lacking.items() for i in range(number))]
    dealt, numbers, exhausted = [], dict.fromkeys(lacking, 0), set()
    for name in cycle(paced):  # side by side, each severity at its own pace; from the second time on they are spares
        if len(exhausted) == len(lacking):
            return dealt
        usable = is_source[name] & (photo_uses < max_per_source)
        for group, members in groups.items():
            room = (max_per_source - photo_uses[members]).sum() - sum(left[other] for other in group)
            if name not in group and room <= 0:
                usable &= ~members
        if not usable.any():
            assert left[name] == 0, "Hall's condition held, so there was a source"
            exhausted.add(name)
            continue
        candidates = np.flatnonzero(usable)
        order = (lots, tone_uses[name][tones], photo_uses, person_uses[people])  # the last is compared first
        i = candidates[np.lexsort([key[candidates] for key in order])[0]]
        dealt.append((name, numbers[name], left[name] == 0, int(i), int(photo_uses[i])))
        photo_uses[i] += 1
        person_uses[people[i]] += 1
        tone_uses[name][tones[i]] += 1
        numbers[name] += 1
        left[name] -= left[name] > 0


def _edit_seed(seed: int, file_name: str, severity: str, use: int) -> int:
    """A number below 2 ** 31 of an edit's own, whatever else is planned."""
    return int(hashlib.sha256(f"{seed}/{severity}/{use}/{file_name}".encode()).hexdigest()[:8], 16) >> 1


def plan_text(counts: Mapping[str, int], lacking: Mapping[str, int], plan: pd.DataFrame | None = None) -> str:
    """What will be added to each severity and from what, as lines for a terminal.

    Args:
        counts: images of each class now.
        lacking: images that each is to get.
        plan: of edits; None: the images are not made from photographs.
    """
    width = max(8, *map(len, counts))
    lines = [f"{'severity':<{width}}  {'now':>6} {'added':>6} {'then':>6}" + ("  from" if plan is not None else "")]
    for name, now in counts.items():
        added = lacking.get(name, 0)
        line = f"{name:<{width}}  {now:>6} {added:>6} {now + added:>6}"
        if plan is not None and added:
            edits = plan[(plan["severity"] == name) & ~plan["is_spare"]]
            line += "  " + ", ".join(f"{n} {source}" for source, n in edits["source_severity"].value_counts().items())
        lines.append(line)
    if plan is None:
        return "\n".join(lines)
    edits = plan[~plan["is_spare"]]
    people = edits["subject"].where(edits["subject"] != "", edits["file_name"]).value_counts()
    lines.append(
        f"{len(edits)} edits of {edits['file_name'].nunique()} photographs of {len(people)} people, "
        f"at most {edits['file_name'].value_counts().max()} of one photograph and {people.max()} of one person; "
        f"{len(plan) - len(edits)} spares"
    )
    added = edits["num_added"]
    lines.append(f"lesions to add: {added.min()} to {added.max()} a photograph, median {added.median():g}")
    if (edits["tone"] != "").any():
        tones = edits["tone"].replace("", "unknown").value_counts().sort_index()
        lines.append("skin tones: " + ", ".join(f"{tone}: {n}" for tone, n in tones.items()))
    return "\n".join(lines)
