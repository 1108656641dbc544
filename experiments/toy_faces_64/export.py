"""Turn a finished run of `experiment=toy_faces_64` into the weights that ship with the package (16 bit)."""

import sys
from pathlib import Path

import torch

from acne_lab.gan.weights import NETWORKS_FILE, read_networks, save_networks

run, out = Path(sys.argv[1]), Path(sys.argv[2])
save_networks(out, dtype=torch.float16, **read_networks(run / NETWORKS_FILE))
print(f"{out}: {out.stat().st_size / 1e6:.1f} MB")
