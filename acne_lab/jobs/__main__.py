"""Entry of every verb. A job's module is imported only when its config is composed, so that --help is quick."""

import sys
from importlib import import_module

from acne_lab.build import run_job
from acne_lab.jobs.malloc import keep_freed_memory
from acne_lab.processes import rank

PLAIN = ("report", "convert", "runs", "bench", "ops")  # verbs with a few arguments of their own and no config


def main() -> None:
    # Lightning starts the other processes of a training with the overrides alone.
    verb = "train" if rank() > 0 and "=" in sys.argv[1] else sys.argv.pop(1)
    if verb in PLAIN:
        import_module(f"acne_lab.jobs.{verb}").main()
        return
    if verb in ("train", "generate"):
        keep_freed_memory()
    rewrite = import_module("acne_lab.jobs.arms").with_long_names if verb == "study" else list
    run_job(verb, lambda config: getattr(import_module(f"acne_lab.jobs.{verb}"), verb)(config), rewrite)


if __name__ == "__main__":
    main()
