"""Where convolutions on the CPU run as Winograd's, with 4/9 of the multiplications, instead of the library's.

The operator is `torch.ops.acne_lab.cpu_winograd_conv2d`, the algorithm F(2 x 2, 3 x 3) of Lavin and Gray, "Fast
algorithms for convolutional neural networks" (arXiv:1509.09308). Its errors are about 1e-6 of the largest number, no
more than the library's: it rounds in more places, but adds up fewer products. Where an infinity or NaN goes in, NaN
comes out, in all of the 2 x 2 pixels that share it.
"""

import torch
from torch import Tensor

# Measured against oneDNN with AVX-512. Channels are computed this many at a time; with half as many, the transforms of
# images cost more than the products save. So do those of the weight with fewer tiles, which are 2 x 2 pixels.
CHANNELS = 32
MIN_TILES = 128


def serves(x: Tensor, weight: Tensor, stride: int, padding: int) -> bool:
    """Whether a convolution of [N, C, H, W] or the adjoint of one is for Winograd's algorithm: can be, and is faster.

    It depends on nothing but shapes, types and layout, so that the same call gives the same numbers again.
    """
    return (
        weight.shape[2:] == (3, 3)
        and (stride, padding) == (1, 1)
        and weight.shape[0] % CHANNELS == weight.shape[1] % CHANNELS == 0
        and x.shape[2] % 2 == x.shape[3] % 2 == 0
        and x.shape[0] * x.shape[2] * x.shape[3] >= 4 * MIN_TILES
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.is_contiguous(memory_format=torch.channels_last)
    )
