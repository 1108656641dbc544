from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def photo():
    """photo(path, seed): a small photograph whose pixels depend on `seed`, written to `path`."""

    def write(path: Path, seed: int = 0, size: tuple[int, int] = (20, 16)) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize(size).save(path)
        return path

    return write
