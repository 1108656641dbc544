import io

import numpy as np
import pytest
import skimage.data
from PIL import Image

from acne_lab.data.photo import border_colour, fit_boxes, fit_square, read_photo

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def stored(image, format="PNG", **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    file.seek(0)
    return file


def pixels(file, **options):
    photo = read_photo(file, **options)
    assert photo.mode == "RGB"
    return np.asarray(photo)


def image_of(*rows):
    return Image.fromarray(np.array(rows, dtype=np.uint8))


UPRIGHT = np.array([[[10, 0, 0], [20, 0, 0], [30, 0, 0]], [[40, 0, 0], [50, 0, 0], [60, 0, 0]]], dtype=np.uint8)


@pytest.mark.parametrize(
    ("orientation", "as_stored"),
    [
        (1, UPRIGHT),
        (2, UPRIGHT[:, ::-1]),
        (3, UPRIGHT[::-1, ::-1]),
        (4, UPRIGHT[::-1]),
        (5, UPRIGHT.transpose(1, 0, 2)),
        (6, np.rot90(UPRIGHT, 1)),  # the viewer turns it clockwise, so it lies turned anticlockwise
        (7, UPRIGHT[::-1, ::-1].transpose(1, 0, 2)),
        (8, np.rot90(UPRIGHT, -1)),
    ],
)
def test_exif_orientation(orientation, as_stored):
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = stored(Image.fromarray(np.ascontiguousarray(as_stored)), exif=exif)
    np.testing.assert_array_equal(pixels(file), UPRIGHT)


def test_exif_orientation_of_a_jpeg_in_draft_mode():
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.new("RGB", (64, 32), RED)
    image.paste(BLUE, (0, 0, 32, 32))  # left half blue; turned clockwise it is the top half
    photo = pixels(stored(image, "JPEG", quality=100, exif=exif), draft_side=8)
    assert photo.shape == (16, 8, 3)
    assert photo[2, 4, 2] > 240
    assert photo[13, 4, 0] > 240


def test_gray_bilevel_and_palette():
    gray = image_of([0, 7, 255])
    assert pixels(stored(gray)).tolist() == [[[0] * 3, [7] * 3, [255] * 3]]
    assert pixels(stored(gray.point(lambda value: 255 * (value > 5)).convert("1")))[0, :, 0].tolist() == [
        0,
        255,
        255,
    ]
    colours = image_of([RED, GREEN, BLUE]).quantize(3)
    assert pixels(stored(colours)).tolist() == [[list(RED), list(GREEN), list(BLUE)]]


def test_transparency_is_composited_on_white():
    rgba = image_of([(255, 0, 0, 255), (255, 0, 0, 0), (0, 0, 0, 128)])
    assert pixels(stored(rgba)).tolist() == [[list(RED), list(WHITE), [127] * 3]]
    gray_alpha = Image.merge("LA", [Image.new("L", (1, 1), 0), Image.new("L", (1, 1), 0)])
    assert pixels(stored(gray_alpha)).tolist() == [[list(WHITE)]]


def test_transparent_palette_entry_becomes_white():
    palette = image_of([RED, GREEN]).quantize(2)
    green = palette.getpixel((1, 0))
    assert pixels(stored(palette, transparency=green)).tolist() == [[list(RED), list(WHITE)]]
    keyed = stored(image_of([RED, GREEN]), transparency=GREEN)
    assert pixels(keyed).tolist() == [[list(RED), list(WHITE)]]


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_16_bits_are_scaled_not_cut(format):
    values = np.array([[0, 257, 128 * 257, 65535, 128, 129]], dtype=np.uint16)
    assert pixels(stored(Image.fromarray(values), format))[0, :, 0].tolist() == [0, 1, 128, 255, 0, 1]


def test_32_bit_and_float_images_are_refused():
    with pytest.raises(ValueError, match="no definite range"):
        read_photo(stored(Image.fromarray(np.array([[70000]], dtype=np.int32)), "TIFF"))
    with pytest.raises(ValueError, match="no definite range"):
        read_photo(stored(Image.fromarray(np.array([[0.5]], dtype=np.float32)), "TIFF"))


def test_cmyk():
    cmyk = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    assert pixels(stored(cmyk, "TIFF"))[0, 0].tolist() == list(RED)
    assert np.abs(pixels(stored(cmyk, "JPEG", quality=100))[0, 0] - np.array(RED)).max() <= 2


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_first_frame_of_an_animation(format):
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, BLUE)]
    file = stored(frames[0], format, save_all=True, append_images=frames[1:], lossless=True)
    assert pixels(file)[0, 0].tolist() == list(RED)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow warns of some cuts before it refuses them
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "BMP", "TIFF"])
def test_a_file_cut_anywhere_is_refused_or_whole(format):
    """No cut may yield a photograph with missing pixels; all errors are OSError or ValueError."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8))
    content = stored(image, format).getvalue()
    whole = pixels(io.BytesIO(content))
    refused = 0
    for length in range(0, len(content), max(1, len(content) // 150)):
        try:
            np.testing.assert_array_equal(pixels(io.BytesIO(content[:length])), whole)
        except (OSError, ValueError):
            refused += 1
    assert refused > 100


def test_a_truncated_jpeg_is_refused_in_draft_mode():
    content = stored(Image.fromarray(skimage.data.astronaut()), "JPEG").getvalue()
    with pytest.raises(OSError, match="truncated"):
        read_photo(io.BytesIO(content[: len(content) * 9 // 10]), draft_side=32)


def test_what_is_no_image_is_refused(tmp_path):
    (tmp_path / "a.jpg").write_text("hello")
    with pytest.raises(ValueError, match="not an image"):
        read_photo(tmp_path / "a.jpg")
    with pytest.raises(FileNotFoundError):
        read_photo(tmp_path / "b.jpg")


def test_draft_is_close_to_the_full_decode():
    image = Image.fromarray(skimage.data.astronaut())
    content = stored(image, "JPEG", quality=95).getvalue()
    fast = read_photo(io.BytesIO(content), draft_side=128)
    assert fast.size == (128, 128)
    full, fast = (
        np.asarray(fit_square(read_photo(io.BytesIO(content), draft_side=side), 64, "crop")).astype(float)
        for side in (None, 128)
    )
    assert np.abs(full - fast).mean() < 2


def test_crop_keeps_the_centre_square():
    wide = Image.new("RGB", (30, 10), RED)
    wide.paste(GREEN, (10, 0, 20, 10))
    assert np.unique(np.asarray(fit_square(wide, 10, "crop")).reshape(-1, 3), axis=0).tolist() == [list(GREEN)]


def test_crop_of_an_odd_margin_does_not_blur():
    noise = np.random.default_rng(0).integers(0, 256, (8, 11, 3), dtype=np.uint8)
    np.testing.assert_array_equal(np.asarray(fit_square(Image.fromarray(noise), 8, "crop")), noise[:, 1:9])


def test_stretch_keeps_everything():
    wide = Image.new("RGB", (32, 8), RED)
    wide.paste(BLUE, (16, 0, 32, 8))
    stretched = np.asarray(fit_square(wide, 8, "stretch"))
    assert stretched[0, 0].tolist() == list(RED)
    assert stretched[-1, -1].tolist() == list(BLUE)


@pytest.mark.parametrize("size", [(16, 8), (8, 16)])
def test_pad_fills_with_the_mean_border_colour(size):
    image = Image.new("RGB", size, (40, 80, 120))
    image.putpixel((4, 4), WHITE)  # inside: no part of the border
    padded = np.asarray(fit_square(image, 16, "pad"))
    assert padded.shape == (16, 16, 3)
    padding = np.asarray(padded if size == (16, 8) else padded.transpose(1, 0, 2))
    assert (padding[:4] == (40, 80, 120)).all()
    assert (padding[-4:] == (40, 80, 120)).all()
    assert (padded == 255).all(axis=-1).sum() == 1


def test_border_colour_is_a_mean_over_the_ring():
    image = image_of([RED, RED, RED], [RED, WHITE, RED], [BLUE, BLUE, BLUE])
    assert border_colour(image) == (round(5 / 8 * 255), 0, round(3 / 8 * 255))
    assert border_colour(image_of([RED, RED])) == RED


def test_resize_is_antialiased():
    stripes = np.zeros((64, 64, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    assert np.abs(np.asarray(fit_square(Image.fromarray(stripes), 8, "crop")).astype(int) - 128).max() <= 12


def test_an_unknown_fit_is_refused():
    with pytest.raises(ValueError, match="crop, pad or stretch"):
        fit_square(Image.new("RGB", (2, 2)), 2, "squash")


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("size", [(300, 200), (200, 301), (160, 160), (97, 333)])
@pytest.mark.parametrize("resolution", [64, 250])
def test_boxes_go_where_their_pixels_go(fit, size, resolution):
    """A red square on black: its share of each column and row of the result says where its edges are."""
    photo = np.zeros((size[1], size[0], 3), np.uint8)
    x0, y0, x1, y1 = (size[0] // 2 - 31, size[1] // 2 - 22, size[0] // 2 + 17, size[1] // 2 + 40)
    photo[y0:y1, x0:x1, 0] = 255
    red = np.asarray(fit_square(Image.fromarray(photo), resolution, fit))[..., 0].astype(float) / 255
    ((left, top, right, bottom),) = fit_boxes([(x0, y0, x1, y1)], size, resolution, fit)
    places = np.arange(resolution) + 0.5
    across, down = red.sum(axis=0), red.sum(axis=1)
    assert (places @ across / across.sum(), places @ down / down.sum()) == pytest.approx(
        ((left + right) / 2, (top + bottom) / 2), abs=0.1
    )
    assert (right - left) * (bottom - top) == pytest.approx(red.sum(), rel=0.01)


def test_boxes_beyond_a_crop_lie_beyond_it():
    assert fit_boxes([(0, 0, 10, 10)], (300, 100), 50, "crop").tolist() == [[-50, 0, -45, 5]]
    assert fit_boxes(np.empty((0, 4)), (300, 100), 50, "pad").shape == (0, 4)
    with pytest.raises(ValueError, match="crop, pad or stretch"):
        fit_boxes([(0, 0, 1, 1)], (9, 9), 8, "fill")
