"""From config to objects: the only module that calls `hydra.utils.instantiate`, and what every Hydra job shares."""

import argparse
import difflib
import os
import re
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from acne_lab.runs import NoSuchRun, Run, find_table

HERE = Path(__file__).resolve().parent
CONF_DIR = HERE / "conf" if (HERE / "conf").is_dir() else HERE.parent / "conf"  # in a wheel, in a checkout


def divide(total: int, part: int) -> int:
    """total / part, which must come out even: `${divide:a,b}`."""
    if part <= 0 or total % part:
        raise ValueError(f"{total} images do not divide into parts of {part}: change one of the two")
    return total // part


def if_at_least(value: float, threshold: float, then: float, otherwise: float) -> float:
    """`then` where value >= threshold, else `otherwise`: `${if_at_least:${data.resolution},512,32768,16384}`."""
    return then if value >= threshold else otherwise


def auto_batch(resolution: int, devices: int | Sequence[int], num_nodes: int) -> int:
    """Total batch of StyleGAN2-ADA's "auto" set-up, up to 32 a device and 64 in all: model=auto."""
    num = num_processes(devices, num_nodes)
    return max(min(num * min(4096 // resolution, 32), 64), num)


def auto_group(batch_size: int, devices: int | Sequence[int], num_nodes: int) -> int:
    """Images in a minibatch-std group in that set-up, at most those of one device: model=auto."""
    return min(max(batch_size // num_processes(devices, num_nodes), 1), 4)  # 0 each is refused with the batch


def num_processes(devices: int | Sequence[int], num_nodes: int) -> int:
    """Those of `trainer.devices`, a number or a list of indices, on every node."""
    if isinstance(devices, str) or devices == -1:
        raise ValueError(f"model=auto sets the batch by the number of devices: trainer.devices={devices} is no number")
    return (devices if isinstance(devices, int) else len(devices)) * num_nodes


OmegaConf.register_new_resolver("auto_batch", auto_batch, replace=True)
OmegaConf.register_new_resolver("auto_group", auto_group, replace=True)
OmegaConf.register_new_resolver("divide", divide, replace=True)
OmegaConf.register_new_resolver("if_at_least", if_at_least, replace=True)


def build(node: DictConfig | dict, **kwargs: Any) -> Any:
    """Make the object that a config node describes; `kwargs` are added to its arguments.

    Raises:
        ValueError: what the object's constructor said about its arguments, without Hydra's wrapping.
    """
    try:
        return instantiate(node, _convert_="all", **kwargs)
    except InstantiationException as error:
        if isinstance(error.__cause__, ValueError):
            raise error.__cause__ from None
        raise ValueError(str(error)) from error


def run_logger(config: dict, run: Run, *, x: str | None = None, only_drawn: bool = False) -> Any:
    """The logger that `config["logger"]` describes, for this run; None where there is none. Args: `wandb_logger`."""
    return build(config["logger"])(run, x=x, only_drawn=only_drawn) if config["logger"] else None


def resolved(cfg: DictConfig) -> dict:
    """The config as plain dicts, lists and numbers; ValueError names values (`???`) that are not given."""
    missing = list(_missing(OmegaConf.to_container(cfg)))
    if missing:
        raise ValueError("missing values, give them on the command line: " + ", ".join(f"{key}=..." for key in missing))
    return OmegaConf.to_container(cfg, resolve=True)


def composed(root: str, *overrides: str) -> dict:
    """The resolved config of a verb, as the command line makes it from these overrides."""
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return resolved(compose(root, overrides=table_overrides(list(overrides))))


def _missing(node: object, path: str = "") -> Iterator[str]:
    """Dotted names of the values that are `???`."""
    if isinstance(node, dict):
        for name, value in node.items():
            yield from _missing(value, f"{path}.{name}" if path else name)
    elif node == "???":
        yield path


def table_overrides(overrides: list[str]) -> list[str]:
    """Let `data=...` name an image table, by its folder or its run, besides the sources in conf/data.

    Raises:
        ValueError: the run of that name holds no table, or is not finished.
    """
    given = {name: value.strip("'\"") for name, _, value in (text.partition("=") for text in overrides)}
    if "data" not in given or any((d / "data" / f"{given['data']}.yaml").exists() for d in config_dirs(overrides)):
        return overrides
    try:
        root = find_table(given["data"], given.get("runs_dir", "runs"))
    except NoSuchRun:  # a sweep over sources, or an error that Hydra explains
        return overrides
    table = ["data=table", f"data.root='{root.resolve()}'"]
    return [word for text in overrides for word in (table if text.startswith("data=") else [text])]


def check_choices(config_name: str, words: list[str]) -> None:
    """Raise a ValueError with the nearest names where a word asks for a file that its config group does not have.

    Hydra says so, too, in forty lines and without a suggestion. Sweeps and lists are left to it.
    """
    if any("hydra.searchpath" in word for word in words):
        return
    for group, _, name in (word.partition("=") for word in words):
        folders = [found for root in config_dirs(words) if (found := root / group).is_dir()]
        known = sorted({path.stem for folder in folders for path in folder.glob("*.yaml")})
        if not known or not re.fullmatch(r"[\w.-]+", name) or name in ("null", *known):
            continue
        guess = None
        if config_name == "train" and group == "backbone" and _is_timm_model(name):
            guess = f"timm's network of this name is model.backbone={name}, by the recipe of another backbone=. "
        raise ValueError(no_such(group, name, known, guess=guess))


def no_such(what: str, name: str, known: Sequence[str], *, guess: str | None = None) -> str:
    """An error's words: there is none of that name, but the nearest (or what `guess` says) and all others are ..."""
    if guess is None:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        guess = f"did you mean {' or '.join(near)}? " if near else ""
    return f"there is no {what} {name}: {guess}There are {', '.join(known)}"


def _is_timm_model(name: str) -> bool:
    import timm  # takes seconds, which only an error has

    return timm.is_model(name)


def config_dirs(words: list[str]) -> list[Path]:
    """Where a command finds its configs: ours, and the user's own (`--config-dir conf`)."""
    flags = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    flags.add_argument("--config-dir", "-cd")
    own = flags.parse_known_args(words)[0].config_dir
    return [CONF_DIR, *([Path(own)] if own else [])]


def run_job(
    config_name: str,
    function: Callable[[dict], Run | None],
    rewrite: Callable[[list[str]], list[str]] = list,
) -> None:
    """Run `function` as the Hydra command of a root config: from a resolved config to a run.

    `rewrite` may put other words in the place of the command's before Hydra reads them.

    The last line on standard output is the run's path, if it has made one. An error in what the user gave is printed
    without a traceback and exits with 2.
    """
    # A file, made when a job fails: a launcher may run the members of a sweep in other processes.
    failed = Path(tempfile.gettempdir()) / f"acne-lab-failed-{uuid.uuid4()}"

    @hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name=config_name)
    def with_config(cfg: DictConfig) -> Path | None:
        try:
            if run := function(resolved(cfg)):  # a dry run leaves none
                print(run.path, flush=True)
                return run.path  # for Hydra's callbacks
        except (ValueError, OSError) as error:
            if "HYDRA_FULL_ERROR" in os.environ:  # Hydra's own switch for tracebacks
                raise
            failed.touch()
            print(f"error: {error}", file=sys.stderr, flush=True)

    try:
        words = table_overrides(rewrite(sys.argv[1:]))
        check_choices(config_name, words)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    # Hydra's parser wants its flags before the overrides; people write `study=demo -m seed=0,1`.
    sys.argv[1:] = sorted(words, key=lambda word: word not in ("-m", "--multirun"))
    try:
        with_config()
        if failed.exists():
            sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted: repeat the command, it goes on", file=sys.stderr)
        sys.exit(130)  # 128 + SIGINT, as shells have it
    finally:
        failed.unlink(missing_ok=True)
