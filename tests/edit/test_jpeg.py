import numpy as np
import pytest
from PIL import Image, JpegImagePlugin

from acne_lab.edit.jpeg import save_like


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


@pytest.mark.parametrize(("mode", "suffix"), [("RGB", "png"), ("L", "jpg"), ("CMYK", "jpg")])
def test_other_sources_give_quality_95(portrait, tmp_path, mode, suffix):
    source, out = tmp_path / f"source.{suffix}", tmp_path / "out.jpg"
    Image.fromarray(portrait).convert(mode).save(source)
    save_like(portrait, source, out)
    Image.fromarray(portrait).save(tmp_path / "95.jpg", quality=95, subsampling=0)
    assert out.read_bytes() == (tmp_path / "95.jpg").read_bytes()
