"""Many heads on the features of a frozen backbone, trained at once.

Each head of the grid has a learning rate, a weight decay and a seed, which is where it starts and the order in which it
sees the images. The weights of all lie in one tensor: a step is one product of large matrices for all of them, and then
whatever the head computes of it (`torch.func.vmap`). It knows neither images nor backbones.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm

SCORE, LOSS = "val/balanced_accuracy", "val/loss"


class Features(NamedTuple):
    """What a backbone sees in N images, and what is known of them."""

    features: Tensor  # [N, F] float32
    labels: Tensor  # [N] int64
    counts: Tensor  # [N] float32 lesions, NaN where unknown

    def of(self, rows: Tensor) -> "Features":
        """Rows [...] -> [..., F], [...] and [...]."""
        return Features(*(column[rows] for column in self))


class Probe(NamedTuple):
    """The head that was chosen, and how all of them did.

    Attributes:
        weights: its state dict.
        chosen: its row of `heads`.
        heads: one row a head: lr, weight_decay, seed, and of its best epoch: epoch (from 1), SCORE, LOSS.
        curve: the chosen one after each epoch: epoch, train/loss, LOSS, val/accuracy, SCORE.
    """

    weights: dict[str, Tensor]
    chosen: dict
    heads: pd.DataFrame
    curve: pd.DataFrame


def probe(
    make_head: Callable[[], nn.Module],
    train: Features,
    val: Features,
    *,
    lrs: Sequence[float],
    weight_decays: Sequence[float],
    seeds: Sequence[int],
    order: Callable[[int, int], Tensor],
    num_epochs: int,
    optimizer: Callable[[Iterable], Optimizer],
    factor: Callable[[int], float],
    class_weights: Tensor,
    drop_rate: float = 0.0,
) -> Probe:
    """Train a head for every learning rate, weight decay and seed; choose one by the validation images.

    Of each head the epoch of its highest balanced accuracy counts. Learning rate and weight decay are those with the
    highest mean of that over the seeds (of equals, the lowest mean loss), for the best of a hundred single heads is
    mostly the luckiest. The head is the best of theirs.

    Args:
        make_head: builds a head of `heads`, starting from torch's random numbers.
        train: to learn from.
        val: to choose by.
        lrs, weight_decays, seeds: the grid.
        order: (seed, epoch from 0) -> rows of `train`, int64 [num_steps, B], as many in every epoch.
        num_epochs: of training.
        optimizer: groups of parameters -> optimizer.
        factor: on every learning rate at step i from 0.
        class_weights: [C], for heads that weigh their loss.
        drop_rate: probability in [0, 1) with which a head does not see a feature while it learns.

    Raises:
        ValueError: no head ever had a finite loss.
    """
    settings = [(lr, weight_decay) for lr in lrs for weight_decay in weight_decays]
    heads = _Heads(make_head, settings, seeds, drop_rate=drop_rate, class_weights=class_weights)
    moves = optimizer(heads.groups)
    schedule = LambdaLR(moves, factor)
    best = {SCORE: torch.full(heads.shape, -1.0), LOSS: torch.zeros(heads.shape), "epoch": torch.zeros(heads.shape)}
    weights, epochs = heads.weights(), []
    for epoch in tqdm(range(num_epochs), desc=f"{best[SCORE].numel()} heads", unit="epoch"):
        batches = torch.stack([order(seed, epoch) for seed in seeds], dim=1)  # [num_steps, seeds, B]
        losses = []
        for rows in batches:
            losses.append(heads.backward(train.of(rows)))
            moves.step()
            schedule.step()
        figures = {"train/loss": torch.stack(losses).mean(dim=0), **validated(heads.graded(val.features), val.labels)}
        epochs.append(figures | {"epoch": torch.full(heads.shape, epoch + 1.0)})
        better = figures[SCORE] > best[SCORE]
        best = {name: torch.where(better, epochs[-1][name], old) for name, old in best.items()}
        for name, new in heads.weights().items():
            weights[name][better] = new[better]

    grid = [(lr, decay, seed, i, j) for i, (lr, decay) in enumerate(settings) for j, seed in enumerate(seeds)]
    table = pd.DataFrame(grid, columns=["lr", "weight_decay", "seed", "i", "j"])
    table = table.assign(**{name: x.flatten().double().numpy() for name, x in best.items()}).astype({"epoch": int})
    if (table[SCORE] < 0).all():
        raise ValueError("the losses of all heads became infinite: lower probe.lrs")
    chosen = choose(table)
    at = (chosen.pop("i"), chosen.pop("j"))
    curve = pd.DataFrame([{name: float(x[at]) for name, x in figures.items()} for figures in epochs])
    return Probe(
        weights={name: x[at] for name, x in weights.items()},
        chosen=chosen,
        heads=table.drop(columns=["i", "j"]),
        curve=curve[["epoch", "train/loss", LOSS, "val/accuracy", SCORE]].astype({"epoch": int}),
    )


def choose(heads: pd.DataFrame) -> dict:
    """The row of the best head of the learning rate and weight decay that do best over all seeds."""
    means = heads.groupby(["lr", "weight_decay"], as_index=False)[[SCORE, LOSS]].mean().round({SCORE: 9})
    setting = means.sort_values([SCORE, LOSS], ascending=[False, True]).iloc[0]
    theirs = heads[(heads["lr"] == setting["lr"]) & (heads["weight_decay"] == setting["weight_decay"])]
    return theirs.sort_values([SCORE, LOSS], ascending=[False, True]).to_dict("records")[0]


def validated(probabilities: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Figures [...] of each head, from what it says of M images [..., M, C]. A score of -1: it says nothing finite."""
    truth = F.one_hot(labels, probabilities.shape[-1]).float()
    right = (probabilities.argmax(dim=-1) == labels).float()
    present = truth.sum(dim=0) > 0
    recall = (right @ truth)[..., present] / truth.sum(dim=0)[present]
    of_truth = (probabilities * truth).sum(dim=-1).clamp(min=torch.finfo(probabilities.dtype).tiny)
    finite = probabilities.isfinite().all(dim=-1).all(dim=-1)
    return {
        SCORE: torch.where(finite, recall.mean(dim=-1), -1.0),
        LOSS: -of_truth.log().mean(dim=-1),
        "val/accuracy": right.mean(dim=-1),
    }


class _Heads:
    """A head for every setting and seed, with all weights of one name in one tensor [settings, seeds, ...].

    Args: as of `probe`; settings are pairs of learning rate and weight decay.
    """

    def __init__(
        self,
        make_head: Callable[[], nn.Module],
        settings: Sequence[tuple[float, float]],
        seeds: Sequence[int],
        *,
        drop_rate: float,
        class_weights: Tensor,
    ) -> None:
        self.shape = (len(settings), len(seeds))
        starts = []
        for seed in seeds:
            torch.manual_seed(seed)
            starts.append(make_head())
        if not isinstance(getattr(starts[0], "linear", None), nn.Linear):
            raise ValueError("experiment=probe trains heads that begin with a layer `linear`; choose one of conf/head")

        def stacked(tensors: Callable[[nn.Module], Iterable[tuple[str, Tensor]]]) -> dict[str, Tensor]:
            by_seed = [dict(tensors(start)) for start in starts]
            joined = {name: torch.stack([each[name].detach() for each in by_seed]) for name in by_seed[0]}
            return {name: x.expand(len(settings), *x.shape).clone() for name, x in joined.items()}

        self.parameters, self.buffers = stacked(nn.Module.named_parameters), stacked(nn.Module.named_buffers)
        # A group has one learning rate: each gets a view of its part of the tensors.
        self.groups = [
            {"params": [x[i] for x in self.parameters.values()], "lr": lr, "weight_decay": weight_decay}
            for i, (lr, weight_decay) in enumerate(settings)
        ]
        for x in self.parameters.values():
            x.requires_grad_()
        self.dropout = nn.Dropout(drop_rate)
        self.rest = _Rest(starts[0], class_weights)

    def backward(self, batch: Features) -> Tensor:
        """Gradients of the losses of a batch [seeds, B, ...], for the optimizer. Returns the losses [settings, seeds].

        All settings of a seed see the same images, and the same of their features.
        """
        self.rest.train()
        products = self._products(self.dropout(batch.features))
        targets = (x.expand(self.shape[0], *x.shape).flatten(0, 1) for x in (batch.labels, batch.counts))
        losses = self._each(products, *targets)
        gradients = torch.autograd.grad(losses.sum(), list(self.parameters.values()))
        for i, group in enumerate(self.groups):
            for view, gradient in zip(group["params"], gradients):
                view.grad = gradient[i]
        return losses.detach()

    @torch.no_grad()
    def graded(self, features: Tensor) -> Tensor:
        """[M, F] -> probabilities [settings, seeds, M, C]."""
        self.rest.eval()
        return self._each(self._products(features.expand(self.shape[1], *features.shape)))

    def weights(self) -> dict[str, Tensor]:
        """A copy of all weights by their names in a head, [settings, seeds, ...]."""
        return {name: x.detach().clone() for name, x in (self.parameters | self.buffers).items()}

    def _products(self, features: Tensor) -> Tensor:
        """The linear layers, [seeds, B, F] -> [settings * seeds, B, K]: of each seed one product for all settings.

        vmap would multiply by one small matrix after another, which takes twenty times as long.
        """
        weight = self.parameters["linear.weight"]
        by_seed = weight.transpose(0, 1).flatten(1, 2)  # [seeds, settings * K, F]
        products = torch.bmm(by_seed, features.mT)  # in this order the gradients lie in memory as the weights do
        products = products.unflatten(1, (len(weight), -1)).permute(1, 0, 3, 2)  # [settings, seeds, B, K]
        if "linear.bias" in self.parameters:
            products = products + self.parameters["linear.bias"][:, :, None]
        return products.flatten(0, 1)

    def _each(self, *given: Tensor) -> Tensor:
        """What follows the linear layers, of each head's tensors [settings * seeds, ...]; [settings, seeds, ...]."""
        states = [
            {f"head.{name}": x.flatten(0, 1) for name, x in tensors.items() if not name.startswith("linear.")}
            for tensors in (self.parameters, self.buffers)
        ]
        call = vmap(lambda parameters, buffers, *given: functional_call(self.rest, (parameters, buffers), given))
        return call(*states, *given).unflatten(0, self.shape)


class _Rest(nn.Module):
    """A head but for its linear layer, as the one function that torch.func calls.

    Of products and their targets it is the loss, of products alone the probabilities.
    """

    def __init__(self, head: nn.Module, class_weights: Tensor) -> None:
        super().__init__()
        head.linear = nn.Identity()
        self.head, self.class_weights = head, class_weights

    def forward(self, products: Tensor, *targets: Tensor) -> Tensor:
        outputs = self.head(products)
        if not targets:
            return self.head.graded(outputs).probabilities
        return self.head.loss(outputs, *targets, class_weights=self.class_weights)
