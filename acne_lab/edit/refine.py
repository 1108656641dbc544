"""Refining an overlay: the network paints windows around the parts of a mask, on a photograph of any size."""

from collections.abc import Iterator

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from acne_lab.edit.networks import Inpainter

BATCH = 8  # windows at a time
CONTEXT = 0.25  # of a window's side, between its border and what is painted in it


class Refiner:
    """Repaints the masked pixels of a photograph, so that drawn lesions look photographed.

    Args:
        network: trained.
        window: side in px of the square that the network sees at once: that of its training patches.

    Raises:
        ValueError: the window is not a multiple of what the network halves.
    """

    def __init__(self, network: Inpainter, *, window: int) -> None:
        if window < 8 or window % 2**network.num_down:
            raise ValueError(f"window={window} must be a multiple of {2**network.num_down} px, and at least 8")
        self.network, self.window = network.eval(), window

    def __getstate__(self) -> dict:
        """It travels as arrays: torch sends tensors as handles of shared memory, which a new process cannot open."""
        arrays = {name: tensor.cpu().numpy() for name, tensor in self.network.state_dict().items()}
        return {"G": self.network.init_kwargs, "arrays": arrays, "window": self.window}

    def __setstate__(self, state: dict) -> None:
        network = Inpainter(**state["G"])
        network.load_state_dict({name: torch.from_numpy(array) for name, array in state["arrays"].items()})
        self.__init__(network.requires_grad_(False), window=state["window"])

    @torch.no_grad()
    def __call__(self, photo: np.ndarray, overlaid: np.ndarray, mask: np.ndarray, seed: int) -> np.ndarray:
        """Paint the masked pixels; the others keep the photograph's bits.

        Args:
            photo: uint8 [H, W, 3].
            overlaid: uint8 [H, W, 3], the photograph with drawn lesions.
            mask: bool [H, W].
            seed: of the grain.

        Returns:
            uint8 [H, W, 3], the same for the same arguments.
        """
        assert photo.shape == overlaid.shape == (*mask.shape, 3)
        step = 2**self.network.num_down
        margins = [(0, max(self.window, -(-n // step) * step) - n) for n in mask.shape]  # as `windows` needs it
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.network.to(device)
        noise = np.random.default_rng(seed).standard_normal(mask.shape, np.float32)
        photo_, overlaid_, mask_, noise_ = (
            torch.from_numpy(np.pad(array, [*margins, (0, 0)], mode="symmetric")).permute(2, 0, 1)
            for array in (photo, overlaid, mask[..., None], noise[..., None])
        )
        painted = photo.copy()
        for same_size in batches(windows(mask, window=self.window, step=step)):
            views = [view for view, _ in same_size]

            def cut(image: Tensor, views: list = views) -> Tensor:
                return torch.stack([image[:, rows, columns] for rows, columns in views]).to(device).float()

            images = self.network(cut(photo_) / 127.5 - 1, cut(overlaid_) / 127.5 - 1, cut(mask_), cut(noise_))
            pixels = (images * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
            for ((rows, columns), inside), image in zip(same_size, pixels):
                here = painted[rows, columns]  # without what was padded
                here[inside] = image[: len(here), : here.shape[1]][inside]
        return painted


Window = tuple[tuple[slice, slice], np.ndarray]


def windows(mask: np.ndarray, *, window: int, step: int) -> list[Window]:
    """Squares that hold the mask's connected parts, each part whole in one of them with `CONTEXT` around it.

    Args:
        mask: bool [H, W].
        window: side of a square in px; it grows, in steps of `step`, for parts that would not fit.
        step: sides are multiples of it.

    Returns:
        Rows and columns, which may reach beyond the lower and right border, and which of their pixels within the
        photograph are to be painted there, bool [h, w].
    """
    labels, num_parts = ndimage.label(mask, structure=np.ones((3, 3)))
    bounds = np.array([[p[0].start, p[0].stop, p[1].start, p[1].stop] for p in ndimage.find_objects(labels)])
    limits = [max(window, -(-n // step) * step) for n in mask.shape]
    left, found = np.arange(num_parts), []
    while len(left):
        part = bounds[left[0]]
        span = max(part[1] - part[0], part[3] - part[2])
        side = max(window, -(-int(span / (1 - 2 * CONTEXT)) // step) * step)
        spans, fits = [], np.ones(len(left), bool)
        for (start, stop), (starts, stops), limit in zip(
            part.reshape(2, 2), bounds[left].reshape(-1, 2, 2).transpose(1, 2, 0), limits
        ):
            length = min(side, limit)
            first = int(np.clip((start + stop - length) // 2, 0, limit - length))
            context = int(CONTEXT * length)
            # At the photograph's border there is nothing more to see.
            fits &= (starts >= (first + context if first else 0)) | (starts >= start)
            fits &= (stops <= (first + length - context if first + length < limit else limit)) | (stops <= stop)
            spans.append(slice(first, first + length))
        found.append((tuple(spans), np.isin(labels[tuple(spans)], left[fits] + 1)))
        left = left[~fits]
    return found


def batches(found: list[Window]) -> Iterator[list[Window]]:
    """At most `BATCH` windows of one size at a time."""
    by_size: dict[tuple[int, int], list[Window]] = {}
    for window in found:
        (rows, columns), _ = window
        by_size.setdefault((rows.stop - rows.start, columns.stop - columns.start), []).append(window)
    for same_size in by_size.values():
        for i in range(0, len(same_size), BATCH):
            yield same_size[i : i + BATCH]
