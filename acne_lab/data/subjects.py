"""Who is the same person: photographs grouped by the similarity of their faces, at a threshold from the data.

Nobody knows the people of a set of photographs, and a threshold from the literature was measured on other
cameras and other people. But nearly all pairs of a set show two strangers, so the body of the distribution
of similarities is the distribution of strangers (an empirical null: Efron, JASA 2004). Its upper tail is
extrapolated from the body: with z(p) the normal quantiles, (Q(p) - Q(0.5)) = scale * z(p)**shape is fitted
to the quantiles 0.9 to 0.99; shape 1 is a normal tail, 2 an exponential one. (A first guess takes the lower
tail for the upper one: no person's photographs are in it, however few people there are.) The threshold is where
strangers alone would link 0.02 pairs a photograph. That is far from the one link a photograph at which random
links begin to join everybody (Erdos and Renyi 1960), and errs to the safe side: two strangers taken as one
person cost a little variety, one person taken as two leaks. Pairs that were linked are taken out and the fit
is repeated until it stays.

What is compared are centred vectors: the set's mean face, which all share, is subtracted first.

It does not know identical twins, or a person whose photographs look too different to link.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from scipy.stats import norm

from acne_lab.data.duplicates import connected

FALSE_LINKS = 0.02  # expected pairs of strangers linked, a photograph
MIN_PHOTOGRAPHS = 50  # fewer have too few pairs to tell what strangers look like
UNCALIBRATED = {"dlib": 0.91, "whole image": 0.95}  # dlib's own 0.6 of distance, as a cosine; and for all others
UNCALIBRATED_OTHER = 0.5
MAX_THRESHOLD = 0.95  # a threshold above it would not know a person again: the set cannot calibrate one
MAX_SHARE, MAX_NUMBER = 0.02, 20  # a group above both is looked at: is it one person, or a chain?
MIN_DENSITY = 0.5  # of a person's pairs, this many are linked
LAYOUT_SIDE = 12  # px of the pictures by which photographs without a face are compared
_NULL_SAMPLE = 2000  # photographs whose pairs are the null; more change nothing but the time
_BODY = np.linspace(0.9, 0.99, 19)  # quantiles that the tail of the null is fitted to
_BLOCK = 1024

# How sure it is that photographs of one person are under one subject: ranks, not probabilities.
BY_FACE, BY_FACE_UNCALIBRATED, BY_WHOLE_IMAGE, ALONE, UNKNOWN = 1.0, 0.75, 0.5, 0.25, 0.0


@dataclass(frozen=True)
class Threshold:
    """From which similarity on two photographs show one person.

    Args:
        value: cosine, of centred vectors if calibrated.
        calibrated: False: too few photographs or people; `value` is the literature's.
        num_pairs: compared.
        num_links: pairs at or above it.
        expected_false_links: of strangers, by the null; NaN if not calibrated.
        null_median, null_scale, null_shape: of the fit.
    """

    value: float
    calibrated: bool
    num_pairs: int
    num_links: int
    expected_false_links: float = float("nan")
    null_median: float = float("nan")
    null_scale: float = float("nan")
    null_shape: float = float("nan")


@dataclass(frozen=True)
class People:
    """Args:
    labels: int [N], equal for photographs of one person.
    confidence: float [N]: 1 by the face; 0.75 by the face, with a threshold that is not of this data; 0.5 no
        face, by the similarity of the whole picture to another; 0.25 no face, similar to no other; 0 nobody looked.
    report: numbers for the table's report.
    """

    labels: np.ndarray
    confidence: np.ndarray
    report: dict


def group_people(
    keys: Sequence[str],
    identities: Sequence[np.ndarray | None],
    thumbnails: Sequence[np.ndarray],
    same: Sequence[tuple[int, int]] = (),
    *,
    model: str,
    mirrored: Sequence[np.ndarray | None] = (),
) -> People:
    """Group photographs by person; the result does not depend on their order.

    Args:
        keys: distinct names; they decide order and ties.
        identities: float [D] of length 1 for each face, None where none was found.
        thumbnails: uint8 [S, S, 3] of each photograph.
        same: pairs of positions that show one person whatever their similarity (copies).
        model: whose identities they are, as `IdentityEmbedder.name`.
        mirrored: identities of some mirrored photographs, None for the others: how many of them the threshold
            recognises is reported.
    """
    order = sorted(range(len(keys)), key=keys.__getitem__)
    place = {position: index for index, position in enumerate(order)}
    same = [(place[a], place[b]) for a, b in same]
    faces = [index for index, position in enumerate(order) if identities[position] is not None]
    faceless = [index for index, position in enumerate(order) if identities[position] is None]

    vectors = np.array([identities[order[index]] for index in faces], dtype=np.float64)
    found, by_face, directions = link_similar(vectors, uncalibrated=UNCALIBRATED.get(model, UNCALIBRATED_OTHER))
    centre = vectors.mean(axis=0) if by_face.calibrated else 0.0
    links = [(faces[a], faces[b]) for a, b in found]
    labels = connected(len(order), links)
    links, num_cut = _without_chains(labels, links, dict(zip(faces, directions)), by_face.value)

    confidence = np.full(len(order), BY_FACE if by_face.calibrated else BY_FACE_UNCALIBRATED)
    confidence[faceless] = ALONE
    by_whole = None
    if faceless and len(order) > 1:
        nearest, by_whole = _nearest_pictures(faceless, np.array([thumbnails[position] for position in order]))
        links += nearest
        confidence[[faceless_one for faceless_one, _ in nearest]] = BY_WHOLE_IMAGE

    labels = connected(len(order), [*links, *same])
    sizes = np.bincount(labels)
    back = np.empty(len(order), dtype=int)
    back[order] = np.arange(len(order))
    report = {
        "num_photographs": len(order),
        "num_subjects": len(sizes),
        "num_alone": int((sizes == 1).sum()),
        "largest": int(sizes.max(initial=0)),
        "num_cut_chains": num_cut,
        **{"threshold" if name == "value" else name: _json(value) for name, value in asdict(by_face).items()},
    }
    if by_whole is not None:
        report |= {"whole_image_threshold": by_whole.value, "num_by_whole_image": len(nearest)}
    pairs = [(a, b) for a, b in zip(identities, mirrored) if a is not None and b is not None]
    if pairs:
        cosines = [_cosine(a - centre, b - centre) for a, b in pairs]
        report["num_mirrored"] = len(pairs)
        report["mirrored_recognised"] = float(np.mean(np.array(cosines) >= by_face.value))
    return People(labels[back], confidence[back], report)


def link_similar(vectors: np.ndarray, *, uncalibrated: float) -> tuple[list[tuple[int, int]], Threshold, np.ndarray]:
    """The pairs of vectors [N, D] of length 1 that are too similar for strangers, from where on they are, and what was
    compared [N, D].

    With fewer than `MIN_PHOTOGRAPHS` vectors, or where strangers seem as alike as one person's photographs (a set of
    very few people has no strangers to learn from), the threshold is `uncalibrated`, for the cosine as it is.
    """
    num = len(vectors)
    num_pairs = num * (num - 1) // 2
    if num < MIN_PHOTOGRAPHS:
        links = _pairs_from(vectors, uncalibrated)
        return links, Threshold(uncalibrated, False, num_pairs, len(links)), vectors
    directions = _directions(vectors)
    wanted = FALSE_LINKS * num / num_pairs
    labels, sign = np.arange(num), -1
    for _ in range(6):
        median, scale, shape = fit_null(sign * _stranger_similarities(directions, labels))
        median *= sign
        value = median + scale * norm.isf(wanted) ** shape
        links = _pairs_from(directions, value)
        before, labels, sign = labels, connected(num, links), 1
        if (before == labels).all():
            break
    if value > MAX_THRESHOLD:
        links = _pairs_from(vectors, uncalibrated)
        return links, Threshold(uncalibrated, False, num_pairs, len(links)), vectors
    threshold = Threshold(
        float(value), True, num_pairs, len(links), wanted * num_pairs, float(median), float(scale), float(shape)
    )
    return links, threshold, directions


def _directions(vectors: np.ndarray) -> np.ndarray:
    """The vectors seen from their mean, of length 1."""
    centred = vectors - vectors.mean(axis=0)
    return centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)


def _stranger_similarities(directions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Cosines of the pairs with different labels, among at most `_NULL_SAMPLE` vectors spread evenly."""
    chosen = np.unique(np.linspace(0, len(directions) - 1, min(len(directions), _NULL_SAMPLE)).astype(int))
    first, second = np.triu_indices(len(chosen), 1)
    similarities = (directions[chosen] @ directions[chosen].T)[first, second]
    strangers = labels[chosen][first] != labels[chosen][second]
    return similarities[strangers] if strangers.any() else similarities


def fit_null(similarities: np.ndarray) -> tuple[float, float, float]:
    """Median, scale and shape of the upper half of the strangers' distribution."""
    median, *quantiles = np.quantile(similarities, [0.5, *_BODY])
    excess = np.maximum(np.array(quantiles) - median, 1e-9)
    shape, intercept = np.polyfit(np.log(norm.ppf(_BODY)), np.log(excess), 1)
    if (
        not 1 <= shape <= 2
    ):  # a lighter tail than the normal one is not believed, a heavier one than exponential neither
        shape = float(np.clip(shape, 1, 2))
        intercept = np.mean(np.log(excess) - shape * np.log(norm.ppf(_BODY)))
    return float(median), float(np.exp(intercept)), float(shape)


def _pairs_from(directions: np.ndarray, threshold: float) -> list[tuple[int, int]]:
    """The pairs of rows whose scalar product is at least `threshold`."""
    pairs = []
    for start in range(0, len(directions), _BLOCK):
        first, second = np.nonzero(directions[start : start + _BLOCK] @ directions.T >= threshold)
        above = second > first + start
        pairs += zip((first[above] + start).tolist(), second[above].tolist())
    return pairs


def _without_chains(
    labels: np.ndarray, links: list[tuple[int, int]], directions: dict[int, np.ndarray], threshold: float
) -> tuple[list[tuple[int, int]], int]:
    """The links, without the weakest of groups that are chains; and how many groups were cut.

    One person's photographs link to most of each other. A group that is large and is not like that is a chain of
    people, each of whom looks like the next: its threshold is raised until the pieces are small or dense.
    """
    limit = max(MAX_NUMBER, MAX_SHARE * len(labels))
    kept, num_cut = [], 0
    of_group: dict[int, list[tuple[int, int]]] = {}
    for link in links:
        of_group.setdefault(int(labels[link[0]]), []).append(link)
    for label, group_links in of_group.items():
        size = int((labels == label).sum())
        if size > limit and len(group_links) / (size * (size - 1) / 2) < MIN_DENSITY:
            num_cut += 1
            group_links = _cut(group_links, directions, threshold, limit)
        kept += group_links
    return kept, num_cut


def _cut(
    links: list[tuple[int, int]], directions: dict[int, np.ndarray], threshold: float, limit: float
) -> list[tuple[int, int]]:
    """The links of a chain that are left when the threshold goes up, each time by a twentieth of its distance to 1."""
    raised = threshold + (1 - threshold) / 20
    strong = [(a, b) for a, b in links if float(directions[a] @ directions[b]) >= raised]
    if not strong or raised > 0.999:
        return []
    positions = sorted({position for link in strong for position in link})
    index = {position: number for number, position in enumerate(positions)}
    labels = connected(len(positions), [(index[a], index[b]) for a, b in strong])
    kept = []
    for label in range(labels.max() + 1):
        piece = [(a, b) for a, b in strong if labels[index[a]] == label]
        size = int((labels == label).sum())
        if size > limit and len(piece) / (size * (size - 1) / 2) < MIN_DENSITY:
            piece = _cut(piece, directions, raised, limit)
        kept += piece
    return kept


def _nearest_pictures(faceless: list[int], thumbnails: np.ndarray) -> tuple[list[tuple[int, int]], Threshold]:
    """Each photograph without a face and the one that looks most like it, if it is more alike than strangers' are.

    Only the nearest: a picture without a face must not join two people.
    """
    _, threshold, directions = link_similar(layout(thumbnails), uncalibrated=UNCALIBRATED["whole image"])
    links = []
    for start in range(0, len(faceless), _BLOCK):
        block = faceless[start : start + _BLOCK]
        similarities = directions[block] @ directions.T
        similarities[np.arange(len(block)), block] = -np.inf
        nearest, alike = similarities.argmax(axis=1), similarities.max(axis=1) >= threshold.value
        links += [(block[row], int(nearest[row])) for row in np.flatnonzero(alike)]
    return links, threshold


def layout(thumbnails: np.ndarray) -> np.ndarray:
    """What pictures uint8 [N, 48, 48, 3] look like from afar, without their mean colour: float [N, 432] of length 1."""
    num, side = len(thumbnails), thumbnails.shape[1] // LAYOUT_SIDE
    # The mean of integers adds up in float64 and makes no copy of all of them.
    blocks = thumbnails.reshape(num, LAYOUT_SIDE, side, LAYOUT_SIDE, side, 3).mean(axis=(2, 4))
    flat = (blocks - blocks.mean(axis=(1, 2), keepdims=True)).reshape(num, -1)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-12)


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def _json(value: float | bool) -> float | bool | None:
    return None if value != value else value
