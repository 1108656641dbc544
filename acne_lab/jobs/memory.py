"""What to do when a GPU's memory is too small: which settings need less, and how much less.

The shares were measured as the largest sum of all tensors that live at a time in an iteration: activations, weights,
gradients, optimizer. They differ by some percent between networks and batches (tests/jobs/test_memory.py measures them
again), and do not know what the GPU's libraries need besides.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from acne_lab.build import num_processes

# Share of the memory that is left with ...
HALF_THE_MICROBATCH = 0.60  # less does not halve: weights and optimizer stay
SIXTEEN_BIT = 0.65  # at the four largest resolutions, in place of none: R1 and path length stay in 32 bit
HALF_THE_CHANNELS = 0.55
HALF_THE_RESOLUTION = 0.55  # not a quarter: the largest resolutions have the fewest channels
HALF_THE_BATCH = 0.55  # of a grader or a refiner, and of generation


@contextmanager
def advice_on_memory(config: dict) -> Iterator[None]:
    """Say what needs less memory where the block needs more than the GPU has.

    Raises:
        ValueError: in place of torch's error.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        head = "the GPU's memory is too small, or others use it (nvidia-smi). The share of it that is needed with ..."
        raise ValueError("\n  ".join([head, *remedies(config)])) from error


def remedies(config: dict) -> list[str]:
    """What can be changed in a job of this config, one line each; first what changes the result least."""
    if config.get("task") == "gan":
        return remedies_of_a_gan(config)
    if config.get("task") == "grader":
        batch = config["loader"]["batch_size"]
        return [f"loader.batch_size={batch // 2}: {HALF_THE_BATCH:.0%}"] if batch > 1 else []
    if config.get("task") == "refiner":
        batch = config["stage"]["batch_size"]
        return [f"stage.batch_size={batch // 2}: {HALF_THE_BATCH:.0%}"] if batch > 1 else []
    on_cpu = "CUDA_VISIBLE_DEVICES= in front of the command: none, it runs on the CPU"
    if config["batch_size"] == 1 or "file" in (config.get("mode") or {}):  # a projection is of one image
        return [on_cpu]
    return [f"batch_size={config['batch_size'] // 2}: {HALF_THE_BATCH:.0%}, with the same images", on_cpu]


def remedies_of_a_gan(config: dict) -> list[str]:
    model = config["model"]
    images = model["microbatch"] or images_of_a_process(config)  # of one pass
    part, lines = images // 2, []
    if part and images % 2 == 0 and part % model["D"]["mbstd_group_size"] == 0:
        lines.append(f"model.microbatch={part}: {HALF_THE_MICROBATCH:.0%}, with the same training in more parts")
    if (num_half_res := model["G"]["num_half_res"]) is not None and num_half_res < 4:  # None is 4 on a GPU
        lines.append(f"model.G.num_half_res=4: {SIXTEEN_BIT:.0%}, in 16 bit at the four largest resolutions")
    lines.append(f"model.G.channel_base={model['G']['channel_base'] // 2}: {HALF_THE_CHANNELS:.0%}, a thinner network")
    lines.append(f"data.resolution={config['data']['resolution'] // 2}: {HALF_THE_RESOLUTION:.0%}")
    return lines


def images_of_a_process(config: dict) -> int:
    """Its part of the total batch; 0 where trainer.devices does not say among how many the batch is shared."""
    trainer = config["trainer"]
    if isinstance(trainer["devices"], str) or trainer["devices"] == -1:
        return 0
    return config["stage"]["batch_size"] // num_processes(trainer["devices"], trainer["num_nodes"])
