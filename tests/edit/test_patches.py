"""Exercises of the refiner: where patches are cut, what is taken away, and what must stay."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from acne_lab.data.collect import sha256_of
from acne_lab.data.table import BadData, ImageTable
from acne_lab.edit.patches import (
    EndlessExercises,
    Exercises,
    choose_lesions,
    corners,
    cut_patches,
    ellipses,
    healed,
    within,
)
from acne_lab.edit.poisson import blend

SKIN, RED = np.array([200, 150, 130]), np.array([190, 60, 60])
