import numpy as np
import pytest
from PIL import Image, JpegImagePlugin

from acne_lab.edit.encoding import save_like, suffix_like


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("quality", [60, 97])
def test_tables_and_subsampling_are_the_sources(portrait, tmp_path, quality, subsampling):
    source, out = tmp_path / "source.jpg", tmp_path / "out.jpg"
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    Image.fromarray(portrait).save(source, quality=quality, subsampling=subsampling, exif=exif)
    decoded = np.array(Image.open(source))
    save_like(decoded, source, out)
    with Image.open(source) as before, Image.open(out) as after:
        assert after.format == "JPEG" and after.quantization == before.quantization
        assert JpegImagePlugin.get_sampling(after) == subsampling
        assert not after.getexif()
        assert np.abs(np.asarray(after).astype(int) - decoded).mean() < 0.8  # the same grid rounds the same way


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_jpegs_without_colour_tables_give_quality_95(portrait, tmp_path, mode):
    source, out = tmp_path / "source.jpg", tmp_path / "out.jpg"
    Image.fromarray(portrait).convert(mode).save(source)
    save_like(portrait, source, out)
    Image.fromarray(portrait).save(tmp_path / "95.jpg", quality=95, subsampling=0)
    assert out.read_bytes() == (tmp_path / "95.jpg").read_bytes()


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif"])
def test_what_was_no_jpeg_becomes_none(portrait, tmp_path, suffix):
    source, out = tmp_path / f"source{suffix}", tmp_path / f"out{suffix_like(f'source{suffix}')}"
    Image.fromarray(portrait).save(source)
    save_like(portrait, source, out)
    with Image.open(out) as after:
        assert after.format == "PNG" and out.suffix == ".png"
        assert np.array_equal(np.asarray(after), portrait)


def test_suffixes():
    assert [suffix_like(name) for name in ("a/b.JPG", "b.jpeg", "c.png", "d")] == [".jpg", ".jpg", ".png", ".png"]
