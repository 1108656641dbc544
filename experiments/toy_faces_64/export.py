"""Turn a finished run of `experiment=toy_faces_64` into the weights that ship with the package (16 bit)."""

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from acne_lab.gan.weights import NETWORKS_FILE

run, out = Path(sys.argv[1]), Path(sys.argv[2])
save_file({name: tensor.to(torch.float16) for name, tensor in load_file(run / NETWORKS_FILE).items()}, out)
print(f"{out}: {out.stat().st_size / 1e6:.1f} MB")
