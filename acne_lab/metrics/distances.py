"""Distances between two sets of images, from their features."""

from torch import Tensor


def kernel_distance(x: Tensor, y: Tensor) -> Tensor:
    """Unbiased squared MMD of x [N, C] and y [M, C] with the kernel (a.b/C + 1)^3; 0 on average for one distribution.

    With Inception features it is KID (Binkowski et al. 2018, section 4); with others call it after its network.
    """
    n, m, c = len(x), len(y), x.shape[1]

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.t() / c + 1) ** 3

    xx, yy, xy = kernel(x, x), kernel(y, y), kernel(x, y)
    within = (xx.sum() - xx.trace()) / (n * (n - 1)) + (yy.sum() - yy.trace()) / (m * (m - 1))
    return within - 2 * xy.mean()
