"""A Lightning profiler that keeps every duration, and can leave them in a file.

What it times: every hook of every callback, the loader, whole iterations, and what the training module itself reports
to `trainer.profiler` (the phases of an iteration, and `log`).
"""

import json
import time
from collections import defaultdict
from pathlib import Path

import torch
from pytorch_lightning.profilers import Profiler

from acne_lab.runs import write_text


class Stopwatch(Profiler):
    """Durations by the name of what was done.

    Args:
        path: a JSON file for {name: [seconds, ...]}, written when the training is over; None writes nothing.
        on_gpu: measure by the GPU's clock, which does not make the host wait.
    """

    def __init__(self, *, path: str | None = None, on_gpu: bool = False) -> None:
        super().__init__()
        self.path, self.on_gpu = path, on_gpu
        self.started: dict[str, object] = {}
        self.spans: dict[str, list[tuple]] = defaultdict(list)

    def start(self, action_name: str) -> None:
        self.started[action_name] = self._now()

    def stop(self, action_name: str) -> None:
        self.spans[action_name].append((self.started.pop(action_name), self._now()))

    def _now(self) -> object:
        if not self.on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def durations(self) -> dict[str, list[float]]:
        """Seconds of every time that something was done, in order."""
        if self.on_gpu:
            torch.cuda.synchronize()
            return {name: [a.elapsed_time(b) / 1000 for a, b in spans] for name, spans in self.spans.items()}
        return {name: [b - a for a, b in spans] for name, spans in self.spans.items()}

    def describe(self) -> None:
        """Lightning calls it at the end."""
        if self.path is not None:
            write_text(Path(self.path), json.dumps(self.durations()))
