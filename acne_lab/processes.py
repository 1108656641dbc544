"""Processes that train one run together: which of them this is, and what the first of them has found.

Lightning starts the others when the first one is about to train. torchrun and srun start all at once; then the others
must hear from the first whether there is anything to train. It may have to wait for a process outside to find out.
"""

import itertools
import os
import time
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytorch_lightning.plugins.environments import ClusterEnvironment

SECONDS_BETWEEN_LOOKS = 0.2


def rank() -> int:
    """Number of this process among those that Lightning, torchrun or Slurm has started together."""
    names = ("RANK", "LOCAL_RANK", "SLURM_PROCID")
    return next((int(os.environ[name]) for name in names if name in os.environ), 0)


class Meeting:
    """Where processes that were started together pass words, before they form the group that trains.

    The words lie in the store at the group's address. The first process may host it, so it stays until all have heard.

    Args:
        environment: what Lightning knows about the launch: address, rank and number of processes.

    Raises:
        RuntimeError: from every method, when another process has gone.
    """

    def __init__(self, environment: "ClusterEnvironment") -> None:
        from torch.distributed import rendezvous

        os.environ["MASTER_ADDR"] = environment.main_address
        os.environ["MASTER_PORT"] = str(environment.main_port)
        self.rank, self.world_size = environment.global_rank(), environment.world_size()
        self.store, *_ = next(rendezvous("env://", self.rank, self.world_size))
        self.keys = (f"acne_lab/{turn}" for turn in itertools.count())  # all processes count alike

    def announce(self, word: str) -> None:
        """Said by the first; returns when all others have heard it."""
        key = next(self.keys)
        self.store.set(key, word)
        self.store.wait([f"{key}/heard/{rank}" for rank in range(1, self.world_size)])

    def listen(self) -> str:
        """What the first announces, however long that takes."""
        key = next(self.keys)
        while not self.store.check([key]):
            time.sleep(SECONDS_BETWEEN_LOOKS)
        word = self.store.get(key).decode()
        self.store.set(f"{key}/heard/{self.rank}", "")
        return word


@cache
def meeting() -> Meeting | None:
    """With the processes that torchrun or srun has started beside this one; None where Lightning starts them itself."""
    from pytorch_lightning.plugins.environments import SLURMEnvironment, TorchElasticEnvironment

    launchers = [launcher for launcher in (TorchElasticEnvironment, SLURMEnvironment) if launcher.detect()]
    environment = launchers[0]() if launchers else None
    return Meeting(environment) if environment and environment.world_size() > 1 else None
