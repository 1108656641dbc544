"""The same photograph twice: byte for byte, or saved again in another size, quality or brightness.

Two files are near-duplicates if three things hold: their proportions agree to 2 %, their perceptual hashes
differ in at most 2 of 64 bits, and their thumbnails, with brightness and contrast taken out, correlate by at
least 0.985. The hash finds candidates without comparing all pairs; the correlation decides. Copies saved at
JPEG quality 30, at a third of the size, darker or with more contrast correlate by 0.989 or more; two
different photographs of one toy person in one pose by at most 0.970, and the same portrait cut 1 % to the
side by 0.982.

It does not know crops, mirrored copies or rotations: those are photographs of one person for `subjects`.
"""

from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations

import numpy as np
from PIL import Image
from scipy.fft import dctn
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

MAX_BITS = 2
MIN_CORRELATION = 0.985
MAX_PROPORTION = 1.02
THUMBNAIL_SIDE = 48  # px; a median lesion is below one of them
_BANDS = ((0, 21), (21, 42), (42, 64))  # MAX_BITS + 1 of them: two hashes that near agree in one of them whole
_FLAT = 2.0  # gray levels; a picture with less contrast has no content to compare


def perceptual_hash(image: Image.Image) -> int:
    """64 bits: which of the 8 x 8 lowest DCT frequencies of the 32 x 32 gray picture exceed their median.

    It stays under changes of size, compression, and (but for clipping) brightness and contrast.
    """
    gray = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.LANCZOS), dtype=float)
    low = dctn(gray, norm="ortho")[:8, :8].ravel()
    low[0] = 0  # the brightness
    return int.from_bytes(np.packbits(low > np.median(low)).tobytes(), "big")


def thumbnail(image: Image.Image) -> np.ndarray:
    """uint8 [48, 48, 3]: the whole picture, squeezed."""
    side = (THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    return np.asarray(image.convert("RGB").resize(side, Image.Resampling.BOX, reducing_gap=3))


def near_duplicates(
    hashes: Sequence[int], thumbnails: Sequence[np.ndarray], sizes: Sequence[tuple[int, int]]
) -> list[tuple[int, int]]:
    """All pairs of near-duplicates (their positions), byte duplicates among them.

    Args:
        hashes: `perceptual_hash` of each photograph.
        thumbnails: `thumbnail` of each.
        sizes: width and height of each in px.
    """
    candidates = set()
    for start, stop in _BANDS:
        buckets = defaultdict(list)
        for position, value in enumerate(hashes):
            buckets[value >> start & (1 << stop - start) - 1].append(position)
        for bucket in buckets.values():
            candidates.update(combinations(bucket, 2))
    links = []
    for first, second in sorted(candidates):
        bits = (hashes[first] ^ hashes[second]).bit_count()
        if (
            bits <= MAX_BITS
            and _same_proportions(sizes[first], sizes[second])
            and thumbnail_correlation(thumbnails[first], thumbnails[second]) >= MIN_CORRELATION
        ):
            links.append((first, second))
    return links


def thumbnail_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Correlation of two thumbnails in [-1, 1], channel means taken out (else all skin is alike); 0 if one is flat."""
    a, b = (x.astype(float) - x.mean(axis=(0, 1)) for x in (a, b))
    if min(a.std(), b.std()) < _FLAT:
        return 0.0
    return float((a * b).mean() / (a.std() * b.std()))


def connected(num: int, links: Sequence[tuple[int, int]]) -> np.ndarray:
    """int [num]: a number for each group of things that links connect, directly or through others."""
    pairs = np.array(links, dtype=int).reshape(-1, 2)
    graph = coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(num, num))
    return connected_components(graph, directed=False)[1]


def copies_of_best(links: Sequence[tuple[int, int]], order: Sequence[int]) -> list[list[int]]:
    """Groups of copies, the best copy first: it and what is linked to it, but not what is linked to that alone.

    Twenty photographs of a burst may each be like the next: through links of links they would all be one.

    Args:
        links: pairs of positions.
        order: all positions, the best first (`by_quality`).
    """
    linked = defaultdict(set)
    for first, second in links:
        linked[first].add(second)
        linked[second].add(first)
    rank = {position: number for number, position in enumerate(order)}
    groups, taken = [], set()
    for best in order:
        if best in taken or best not in linked:
            continue
        others = sorted(linked[best] - taken, key=rank.__getitem__)
        if others:
            groups.append([best, *others])
            taken |= {best, *others}
    return groups


def by_quality(sizes: Sequence[tuple[int, int]], num_bytes: Sequence[int], names: Sequence[str]) -> list[int]:
    """Positions: of the most pixels first, then of the most bytes (the least compressed), then by name."""
    return sorted(range(len(names)), key=lambda i: (-sizes[i][0] * sizes[i][1], -num_bytes[i], names[i]))


def _same_proportions(a: tuple[int, int], b: tuple[int, int]) -> bool:
    ratio = (a[0] / a[1]) / (b[0] / b[1])
    return max(ratio, 1 / ratio) <= MAX_PROPORTION
