"""`acne-lab train experiment=...`: train a GAN or a refiner of edits, or train a grader and test it.

The run holds what was learned. Kill it at any moment and repeat the command: it goes on from the last tick (GAN,
refiner) or epoch (grader).
"""

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from acne_lab.jobs.memory import advice_on_memory
from acne_lab.jobs.train_gan import train_gan
from acne_lab.jobs.train_grader import train_grader
from acne_lab.jobs.train_refiner import train_refiner
from acne_lab.processes import meeting
from acne_lab.runs import Run


def train(config: dict) -> Run:
    """Train what `config["task"]` says: "gan", "grader" or "refiner"."""
    if config["task"] is None:
        raise ValueError(
            "choose what to train: experiment=gan_base, experiment=gan_severity, experiment=grader or "
            "experiment=refiner"
        )
    refuse_processes_in_a_sweep(config)
    with advice_on_memory(config):
        return {"gan": train_gan, "grader": train_grader, "refiner": train_refiner}[config["task"]](config)


def refuse_processes_in_a_sweep(config: dict) -> None:
    """Lightning starts the other processes by repeating this command, which must then mean this one training.

    Those of torchrun and srun sweep together. In a study they would meet at stages that train on one device.
    """
    if "strategy" not in config["trainer"] or not HydraConfig.initialized():
        return
    hydra = HydraConfig.get()
    if hydra.job.config_name != "train" or (hydra.mode == RunMode.MULTIRUN and meeting() is None):
        raise ValueError(
            "several processes train one run at a time: start each `acne-lab train ... trainer=ddp` by itself, not as "
            "a stage of a study (a study then finds it done), and without -m unless torchrun or srun starts them"
        )
