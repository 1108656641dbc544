import io
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from acne_lab.data.duplicates import (
    MAX_BITS,
    by_quality,
    connected,
    copies_of_best,
    near_duplicates,
    perceptual_hash,
    thumbnail,
    thumbnail_correlation,
)
from acne_lab.data.portrait import render_photo
from acne_lab.data.toy import ToyFaces, sample_person, sample_photo


@pytest.fixture(scope="module")
def faces():
    """Ten toy photographs of 192 px of some four people."""
    drawn = []
    for shot in ToyFaces(num_images=10, resolution=192, seed=3).shots():
        subject, places = sample_person(3, shot.subject, 2.5)
        drawn.append(Image.fromarray(render_photo(subject, sample_photo(3, shot, subject, places), 192)))
    return drawn


def links_of(images):
    return near_duplicates(
        [perceptual_hash(i) for i in images], [thumbnail(i) for i in images], [i.size for i in images]
    )


def jpeg(image, quality):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


@pytest.mark.parametrize(
    "change",
    [
        lambda image: jpeg(image, 60),
        lambda image: image.resize((70, 70), Image.Resampling.LANCZOS),
        lambda image: image.resize((400, 400), Image.Resampling.BICUBIC),
        lambda image: ImageEnhance.Brightness(image).enhance(0.7),
        lambda image: ImageEnhance.Contrast(image).enhance(0.8),
    ],
    ids=["quality 60", "smaller", "larger", "darker", "flatter"],
)
def test_copies_are_found_and_nothing_else(faces, change):
    links = links_of([*faces, *map(change, faces)])
    assert set(links) == {(i, i + len(faces)) for i in range(len(faces))}


def test_what_only_looks_alike_is_not_a_copy(faces):
    image = faces[0]
    width, height = image.size
    shifted = image.crop((width // 20, 0, width, height)).resize(image.size)
    assert links_of([image, shifted, image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), image.rotate(4)]) == []


def test_other_proportions_are_another_picture(faces):
    assert links_of([faces[0], faces[0].resize((192, 150))]) == []


def test_pictures_without_content_are_nobodys_copies():
    flat = Image.new("RGB", (20, 20), (90, 60, 50))
    assert thumbnail_correlation(thumbnail(flat), thumbnail(flat)) == 0
    assert links_of([flat, flat]) == []


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), st.sets(st.integers(0, 63), max_size=3)), min_size=1, max_size=12))
def test_no_pair_within_two_bits_is_missed(pairs):
    """The bands must give all candidates that a comparison of all pairs would."""
    hashes = [value for value, _ in pairs] + [value ^ sum(1 << bit for bit in bits) for value, bits in pairs]
    picture = np.random.default_rng(0).integers(0, 255, (48, 48, 3), dtype=np.uint8)
    found = set(near_duplicates(hashes, [picture] * len(hashes), [(4, 4)] * len(hashes)))
    every = {
        (i, j)
        for i in range(len(hashes))
        for j in range(i + 1, len(hashes))
        if (hashes[i] ^ hashes[j]).bit_count() <= MAX_BITS
    }
    assert found == every


def test_twenty_thousand_hashes_are_compared_in_seconds():
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**63, 20_000).tolist()
    hashes[777] = hashes[19_000] ^ 0b101
    picture = rng.integers(0, 255, (48, 48, 3), dtype=np.uint8)
    assert near_duplicates(hashes, [picture] * 20_000, [(4, 4)] * 20_000) == [(777, 19_000)]


def test_the_best_copy_stays_and_links_of_links_are_no_copies():
    sizes, num_bytes, names = [(10, 10), (20, 20), (20, 20), (20, 20)], [9, 5, 6, 6], ["a", "b", "d", "c"]
    order = by_quality(sizes, num_bytes, names)
    assert order == [3, 2, 1, 0]
    assert copies_of_best([(0, 3), (3, 1), (2, 0)], order) == [[3, 1, 0]]
    assert copies_of_best([(3, 2), (2, 1), (1, 0)], order) == [[3, 2], [1, 0]]  # a burst: each like the next
    assert copies_of_best([], order) == []
    assert connected(6, [(0, 3), (3, 5), (1, 2)]).tolist() == [0, 1, 1, 0, 2, 0]


def test_a_large_set_of_pairs_is_grouped_at_once():
    """Forty thousand photographs in pairs: looking through all of them for each pair would take minutes."""
    num = 40_000
    start = time.process_time()
    groups = copies_of_best([(k, k + 1) for k in range(0, num, 2)], range(num))
    assert groups == [[k, k + 1] for k in range(0, num, 2)]
    assert time.process_time() - start < 5
