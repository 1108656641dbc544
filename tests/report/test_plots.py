"""Figures: what they draw, that they follow the theme, and that they take odd input."""

import io
import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from acne_lab.report import plots

CURVES = pd.DataFrame(
    {
        "images_seen": [4000, 8000, 12000],
        "loss/G": [1.0, 0.9, 0.8],
        "loss/D": [1.2, np.nan, 1.0],
        "ada/p": [0, 0.1, 0.2],
    }
)


def test_palette_colours_can_be_told_apart():
    assert len({light for light, _ in plots.PALETTE.values()}) == len(plots.PALETTE)


def test_svg_follows_the_theme_and_needs_nothing_else():
    svg = plots.inline_svg(plots.gan_figure(CURVES), name="gan", description="Curves")
    assert not re.findall(r"#[0-9a-f]{6}\b", svg), "every colour is a CSS variable"
    assert "var(--series-1)" in svg
    assert "<metadata" not in svg
    assert "<style" not in svg
    assert 'aria-label="Curves"' in svg
    # what is referred to is defined in the same drawing
    ids = set(re.findall(r' id="([^"]+)"', svg))
    assert set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', svg)) <= {(i, "") for i in ids} | {("", i) for i in ids}
    assert "Loss" in svg
    assert "ADA: augmentation probability p" in svg


def test_the_same_figure_is_the_same_text_and_two_figures_share_no_id():
    first, again = (plots.inline_svg(plots.gan_figure(CURVES), name="a", description="") for _ in range(2))
    other = plots.inline_svg(plots.gan_figure(CURVES), name="b", description="")
    assert first == again
    assert not set(re.findall(r' id="([^"]+)"', first)) & set(re.findall(r' id="([^"]+)"', other))


def test_only_panels_with_values_are_drawn():
    figure = plots.gan_figure(CURVES.assign(**{"score/real": np.nan}))
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["Loss", "ADA: augmentation probability p"]
    x, y = figure.axes[0].lines[1].get_data()
    assert x.tolist() == [4, 12]
    assert y.tolist() == [1.2, 1.0]
    assert plots.gan_figure(CURVES[["images_seen"]]) is None


@pytest.mark.parametrize("num_classes", [1, 2, 4, 5, 7])
def test_ramp_goes_from_mild_to_severe(num_classes):
    colours = plots.ramp(num_classes)
    assert len(colours) == num_classes
    positions = [plots.RAMP.index(colour) for colour in colours]
    assert positions == sorted(positions)


def test_thumbnails_are_square_and_never_enlarged():
    image = Image.new("RGB", (400, 300))
    assert plots.thumbnail(image, side=100).size == (100, 100)
    assert plots.thumbnail(Image.new("L", (30, 40)), side=100).size == (30, 30)
    assert plots.shrunk(image, width=200).size == (200, 150)
    assert plots.shrunk(image, width=800).size == (400, 300)


def test_thumbnail_turns_a_photograph_upright():
    image = Image.new("RGB", (64, 64), "red")
    image.paste("blue", (0, 0, 64, 32))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    data = io.BytesIO()
    image.save(data, "JPEG", exif=exif, quality=95)
    with Image.open(data) as stored:
        red, _, blue = plots.thumbnail(stored, side=64).getpixel((32, 8))
    assert red > 200 > 60 > blue


def test_small_images_are_kept_to_the_pixel():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    media_type, data = plots.encoded(noise)
    assert media_type == "image/png"
    assert Image.open(io.BytesIO(data)).tobytes() == noise.tobytes()
    assert plots.encoded(Image.new("RGB", (200, 200)))[0] == "image/jpeg"


def test_contact_sheet_places_rows():
    red, blue = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    sheet = plots.contact_sheet([[red, red], [blue]], side=10, gap=2)
    assert sheet.size == (22, 22)
    assert sheet.getpixel((15, 5)) == (255, 0, 0)
    assert sheet.getpixel((5, 15)) == (0, 0, 255)
    assert sheet.getpixel((15, 15)) == (255, 255, 255)


def test_contact_sheet_shows_gray_and_transparent_pictures():
    gray, clear = Image.new("L", (8, 8), 77), Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    sheet = plots.contact_sheet([[gray, clear, None]], side=8, gap=0)
    assert [sheet.getpixel((x, 4)) for x in (4, 12, 20)] == [(77,) * 3, (255,) * 3, (255,) * 3]


def test_contact_sheet_makes_room_for_labels():
    """Text stands left of the second row and above the first one, whose pictures stay where they belong."""
    black = Image.new("RGB", (40, 40), "black")
    bare = plots.contact_sheet([[black], [black]], side=40, gap=0)
    sheet = plots.contact_sheet([[black], [black]], side=40, gap=0, captions=[["mild"]], row_labels=["", "seed 3"])
    left, top = sheet.width - bare.width, sheet.height - bare.height
    assert left > 40 > top > 0
    assert sheet.crop((left, top, *sheet.size)).tobytes() == bare.tobytes()
    ink = np.asarray(sheet.convert("L")) < 128
    assert ink[:top, left:].any()
    assert not ink[: top + 40, :left].any()
    assert ink[top + 40 :, :left].any()


def test_a_title_takes_the_lines_it_needs():
    black = Image.new("L", (4, 4))

    def height(title):
        return plots.contact_sheet([[black, black]], side=100, gap=0, title=title).height - 100

    one = height("mild")
    assert height("") == 0 < one
    assert height("train/gan_very_severe-0123456789, psi 0.7") == 2 * one  # broken inside the name, too


def test_projection_figure_starts_at_zero():
    figure = plots.projection_figure(pd.DataFrame({"step": [0, 1, 2], "distance": [0.9, 0.5, 0.4]}))
    [axes] = figure.axes
    assert axes.lines[0].get_ydata().tolist() == [0.9, 0.5, 0.4]
    assert axes.get_ylim()[0] == 0
