"""Swept studies: what their members are together."""

import json

import pytest

from acne_lab.jobs import members
from acne_lab.jobs.members import merged, newest_sweep, summary, sweep_of

PLAN = {
    "name": "bench",
    "arms": {"real": "real_{seed}", "edited": "edited_{seed}"},
    "baseline": "real",
    "backbone": "resnet50",
    "epochs": 5,
    "seeds": [0],
    "stages": {},
}


@pytest.fixture
def member(tmp_path):
    """member(backbone, seed, *arms): writes the study.json of a finished member; later ones are newer."""

    def write(backbone, seed, *arms, plan=PLAN, table="t1", run=""):
        stages = {"table": entry("prepare/toy-t1"), "edits": entry("balance/edits-e1", reused=seed > 0)}
        stages |= {f"{arm}_{seed}": entry(f"train/{arm}_{seed}-{backbone}{run or seed}") for arm in arms}
        story = {
            "name": "bench",
            "seed": seed,
            "seeds": [seed],
            "baseline": None,
            "question": "Which?",
            "stages": stages,
            "arms": {arm: [f"{arm}_{seed}"] for arm in arms},
            "sweep": sweep_of(plan | {"backbone": backbone, "seeds": [seed], "arm": list(arms)}, table),
        }
        folder = tmp_path / "study" / f"bench-{len(list(tmp_path.glob('study/*')))}"
        folder.mkdir(parents=True)
        (folder / "study.json").write_text(json.dumps(story))
        return story["sweep"]["key"]

    return write


def entry(run, *, reused=False):
    return {"job": run.split("/")[0], "run": run, "command": f"acne-lab {run}", "seconds": 1.0, "reused": reused}


def test_members_share_a_key_whatever_they_vary(member, tmp_path):
    keys = {member("resnet50", 0, "real"), member("resnet50", 1, "real", "edited"), member("vgg16", 0, "edited")}
    assert len(keys) == 1
    assert newest_sweep("bench", tmp_path) in keys
    assert newest_sweep("other", tmp_path) is None
    longer = member("resnet50", 0, "real", plan=PLAN | {"epochs": 9})
    elsewhere = member("resnet50", 0, "real", table="t2")
    assert len({*keys, longer, elsewhere}) == 3
    assert newest_sweep("bench", tmp_path) == elsewhere


def test_seeds_of_one_backbone_become_one_arm(member, tmp_path):
    for seed in (1, 0):
        key = member("resnet50", seed, "edited", "real")
    story = merged(key, tmp_path)
    assert story["arms"] == {"real": ["real_0", "real_1"], "edited": ["edited_0", "edited_1"]}  # the plan's order
    assert (story["seeds"], story["baseline"], story["left_out"]) == ([0, 1], "real", [])
    assert set(story["stages"]) == {"table", "edits", "real_0", "real_1", "edited_0", "edited_1"}
    assert not story["stages"]["edits"]["reused"]  # the record of the member that made them


def test_each_backbone_has_its_own_arms_and_baseline(member, tmp_path):
    member("vgg16", 0, "edited")
    member("resnet50", 0, "real")
    key = member("resnet50", 0, "edited")
    story = merged(key, tmp_path)
    assert story["arms"] == {
        "resnet50, real": ["real_0, resnet50"],
        "resnet50, edited": ["edited_0, resnet50"],
        "vgg16, edited": ["edited_0, vgg16"],
    }
    assert story["stages"]["edited_0, vgg16"]["run"] == "train/edited_0-vgg160"
    assert story["members"]["resnet50, edited"] == {
        "backbone": "resnet50", "arm": "edited", "baseline": "resnet50, real",
    }  # fmt: skip
    assert story["members"]["vgg16, edited"]["baseline"] is None
    assert story["baseline"] == "resnet50, real"


def test_seeds_that_an_arm_lacks_are_left_out_and_named(member, tmp_path):
    member("resnet50", 0, "real", "edited")
    key = member("resnet50", 1, "real")
    story = merged(key, tmp_path)
    assert (story["seeds"], story["left_out"]) == ([0], ["real_1"])
    assert story["arms"] == {"real": ["real_0"], "edited": ["edited_0"]}


def test_of_two_graders_of_one_seed_the_newer_counts(member, tmp_path):
    member("resnet50", 0, "real")
    key = member("resnet50", 0, "real", run="again")
    story = merged(key, tmp_path)
    assert story["stages"]["real_0"]["run"] == "train/real_0-resnet50again"


def test_arms_without_a_common_seed_cannot_be_compared(member, tmp_path):
    member("resnet50", 0, "real")
    key = member("resnet50", 1, "edited")
    with pytest.raises(ValueError, match=r"no seed is in all arms.*real: 0; edited: 1"):
        merged(key, tmp_path)


def test_figures_of_seeds_are_means_with_intervals():
    one = {"balanced_accuracy": 0.5, "accuracy": 0.6, "macro_f1": 0.4, "num_test": 9, "recall": {}}
    assert summary([one]) == {"balanced_accuracy": 0.5, "accuracy": 0.6, "macro_f1": 0.4, "num_test": 9}
    two = summary([one, {**one, "balanced_accuracy": 0.7}])
    assert (two["balanced_accuracy"], two["num_test"]) == (pytest.approx(0.6), 9)
    assert two["interval"]["balanced_accuracy"] == pytest.approx([0.6 - 1.2706, 0.6 + 1.2706], abs=1e-3)  # t_1
    assert two["by_seed"]["balanced_accuracy"] == [0.5, 0.7]
    assert set(members.FIGURES) == set(one) - {"recall"}
