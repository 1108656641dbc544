"""The arms of a study: which of them are asked for, the stages that these need, and names that do not exist.

`study=cnn_benchmark backbone=resnet50 arm=real` gives the plan its `study.backbone` and `study.arm`: `backbone`
is a group of the stages' configs, not of the study's, so Hydra would not take the short word.
"""

from collections.abc import Iterable, Sequence

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from acne_lab.build import no_such

SHORT = ("arm", "backbone", "protocol")  # values of a plan that a command may give without `study.`
GROUPS = ("backbone", "protocol")  # those of them that name a config
LOOKS = ("evaluate", "explain")  # jobs that look at what others have made


def with_long_names(words: Sequence[str]) -> list[str]:
    """The words of a study's command with `study.arm=` for `arm=`, and so on.

    Raises:
        ValueError: one of them has several values, and the command sweeps nothing.
    """
    if not {"-m", "--multirun", "hydra.mode=MULTIRUN"} & set(words):
        for word in words:
            name, _, value = word.partition("=")
            if name in SHORT and _is_sweep(word):
                together = f", or {name}=[{value}] for one study of all" if name == "arm" and "(" not in value else ""
                raise ValueError(f"{word}: use -m for a study of each{together}")
    return [f"study.{word}" if word.partition("=")[0] in SHORT else word for word in words]


def _is_sweep(word: str) -> bool:
    try:
        return OverridesParser.create().parse_override(word).is_sweep_override()
    except HydraException:  # Hydra says it better when it reads the word
        return False


def asked_arms(plan: dict) -> dict[str, str]:
    """The arms, name -> pattern of its stages, that `plan["arm"]` names; all but those of `by_name` if it names none.

    Raises:
        ValueError: there is no such arm; the message has the nearest names.
    """
    arms, asked = plan["arms"], plan.get("arm")
    if asked is None:
        return {name: pattern for name, pattern in arms.items() if name not in plan.get("by_name", ())}
    asked = [asked] if isinstance(asked, str) else list(asked)
    for name in asked:
        require_known("arm", name, arms)
    return {name: pattern for name, pattern in arms.items() if name in asked}


def require_configs(plan: dict) -> None:
    """ValueError if the plan names a backbone or a protocol that no stage would find: before hours of GANs."""
    loader = GlobalHydra.instance().config_loader()
    for group in GROUPS:
        if group in plan:
            require_known(group, plan[group], loader.get_group_options(group))


def require_known(what: str, name: str, known: Iterable[str]) -> None:
    """ValueError, with the nearest names, if `name` is none of the known ones."""
    known = list(known)
    if name not in known:
        raise ValueError(no_such(what, str(name), known))


def with_needs(stages: dict, wanted: Sequence[str], needs: dict[str, set[str]]) -> dict:
    """The stages, in their order, that are wanted or that a wanted one waits for.

    Args:
        stages: name -> stage.
        wanted: names of stages.
        needs: name -> the stages that it waits for itself.
    """
    found, left = set(), list(wanted)
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            left += needs.get(name, ())
    return {name: node for name, node in stages.items() if name in found}


def onlookers(stages: dict, found: Iterable[str], needs: dict[str, set[str]]) -> list[str]:
    """The stages that look at what others have made, where all of it is found: nobody waits for them.

    Args:
        stages: name -> stage.
        found: the stages that are run, without the table.
        needs: name -> the stages that it waits for itself.
    """
    there = {"table", *found}
    return [name for name, node in stages.items() if node["job"] in LOOKS and needs[name] <= there]
