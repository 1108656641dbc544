"""Where a processor's time goes in an iteration, by kinds of operators: what `acne-lab bench profile=true` adds."""

from collections import Counter

import pytorch_lightning as pl
from torch.profiler import ProfilerActivity, profile

KINDS = {  # by the start of an operator's name, without its library
    "convolution": (
        "convolution",
        "_convolution",
        "mkldnn_conv",
        "cudnn_conv",
        "slow_conv",
        "thnn_conv",
        "cpu_winograd",
    ),
    "matrix product": ("mm", "addmm", "bmm", "baddbmm"),
    "filter, bias, activation": ("upfirdn2d", "bias_act", "epilogue", "leaky_relu", "_conv_depthwise"),
    "copy": ("copy_", "cat", "fill_", "zero_", "constant_pad", "clone"),
    "sum": ("sum", "mean", "linalg_vector_norm", "_foreach_norm"),
    "optimizer, average": ("_fused_adam", "_foreach"),
    "arithmetic": ("mul", "add", "sub", "div", "neg", "pow", "sqrt", "rsqrt", "clamp", "sigmoid", "softplus", "lerp"),
}


class Profiled(pl.Callback):
    """Profiles the iterations without augmentation; `shares` is what came out."""

    def __init__(self, *, first: int) -> None:
        self.first = first
        self.seconds: Counter[str] = Counter()

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: object, index: int) -> None:
        self.profile = None
        if index >= self.first and index % 2 == 0:
            self.profile = profile(activities=[ProfilerActivity.CPU], record_shapes=True)
            self.profile.start()

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: object, batch: object, index: int
    ) -> None:
        if self.profile is None:
            return
        self.profile.stop()
        for event in self.profile.events():
            self.seconds[kind_of(event.name, event.input_shapes)] += event.self_cpu_time_total / 1e6

    @property
    def shares(self) -> dict[str, float]:
        """Of each kind, the largest first."""
        return {kind: seconds / self.seconds.total() for kind, seconds in self.seconds.most_common()}


def kind_of(name: str, shapes: list) -> str:
    """The kind of an operator, as `KINDS` has them; "rest" is Python, autograd, memory and what is not known."""
    operator = name.rpartition("::")[2]
    for kind, starts in KINDS.items():
        if operator.startswith(starts):
            weight = shapes[1:2] if "backward" not in operator else shapes[2:3]
            if kind == "convolution" and weight and weight[0][1:2] == [1]:  # a filter, as the plain reference has it
                return "filter, bias, activation"
            return kind
    return "rest"
