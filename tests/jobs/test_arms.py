"""Which arms a study runs, and names that do not exist."""

import re

import pytest
from hydra import initialize_config_dir

from acne_lab.build import CONF_DIR
from acne_lab.jobs.arms import asked_arms, onlookers, require_configs, with_long_names, with_needs

PLAN = {"arms": {"real": "real_{seed}", "edited": "edited_{seed}", "leaked": "leaked_{seed}"}, "by_name": ["leaked"]}


def test_an_arm_of_bad_practice_runs_only_by_its_name():
    assert list(asked_arms(PLAN)) == ["real", "edited"]
    assert list(asked_arms(PLAN | {"arm": None})) == ["real", "edited"]
    assert asked_arms(PLAN | {"arm": "leaked"}) == {"leaked": "leaked_{seed}"}
    assert list(asked_arms(PLAN | {"arm": ["leaked", "real"]})) == ["real", "leaked"]  # in the plan's order
    assert list(asked_arms({"arms": {"a": "a"}})) == ["a"]  # of a plan without a word about arms


def test_an_unknown_arm_is_met_with_the_nearest():
    with pytest.raises(ValueError, match=re.escape("there is no arm edit: did you mean edited? There are real,")):
        asked_arms(PLAN | {"arm": ["real", "edit"]})


def test_unknown_backbones_and_protocols_are_met_with_the_nearest():
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        require_configs({"backbone": "byobnet", "protocol": "subject"})
        require_configs({})
        with pytest.raises(ValueError, match=r"no backbone tf_eficientnet: did you mean .*tf_efficientnet_lite0"):
            require_configs({"backbone": "tf_eficientnet"})
        with pytest.raises(ValueError, match="no protocol subjects: did you mean subject"):
            require_configs({"backbone": "byobnet", "protocol": "subjects"})


def test_short_words_of_a_command_are_the_plans():
    words = ["study=cnn_benchmark", "-m", "backbone=a,b", "arm=real", "seed=range(5)", "study.backbone=c"]
    assert with_long_names(words) == [
        "study=cnn_benchmark", "-m", "study.backbone=a,b", "study.arm=real", "seed=range(5)", "study.backbone=c",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("word", "advice"),
    [
        ("arm=real,oversampled", r"^arm=real,oversampled: use -m for a study of each, or arm=\[real,oversampled\]"),
        ("backbone=a,b", r"^backbone=a,b: use -m for a study of each$"),
        ("protocol=glob(*)", "use -m for a study of each$"),
    ],
)
def test_several_values_need_a_sweep(word, advice):
    with pytest.raises(ValueError, match=advice):
        with_long_names(["study=cnn_benchmark", word])
    for sweep in ("-m", "--multirun"):
        assert with_long_names([sweep, word]) == [sweep, f"study.{word}"]


def test_a_list_of_arms_is_one_value():
    for word in ("arm=[real,oversampled]", "arm=real", "arm=null", "arm=[real"):  # the last is Hydra's to refuse
        assert with_long_names([word]) == [f"study.{word}"]


def test_stages_that_nobody_waits_for_are_left_out():
    stages = {name: {} for name in ("table_maker", "gan", "images", "other_gan", "real", "generated")}
    waits = {"generated": {"images", "table"}, "images": {"gan"}, "real": {"table"}}
    assert list(with_needs(stages, ["generated"], waits)) == ["gan", "images", "generated"]
    assert list(with_needs(stages, ["real"], waits)) == ["real"]


def test_who_looks_at_a_stage_comes_with_it():
    stages = {name: {"job": "train"} for name in ("real", "edited")}
    stages |= {"seen": {"job": "explain"}, "also_seen": {"job": "explain"}, "realism": {"job": "evaluate"}}
    needs = {"seen": {"real"}, "also_seen": {"edited"}, "realism": {"table"}, "real": set(), "edited": set()}
    assert onlookers(stages, ["real"], needs) == ["seen", "realism"]
    assert onlookers(stages, ["real", "edited"], needs) == ["seen", "also_seen", "realism"]
