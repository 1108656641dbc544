"""Run folders: keys, locks, whole or absent."""

import multiprocessing as mp
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acne_lab.build import table_overrides
from acne_lab.runs import GAN, STUDY, TABLE, NoSuchRun, find_run, find_table, open_run, run_key

CONFIG = {"name": "x", "seed": 0, "task": "gan", "mode": None, "model": {"width": 3}}


def config(tmp_path, **changes):
    return {**CONFIG, "runs_dir": str(tmp_path), **changes}


def test_round_trip(tmp_path):
    with open_run(config(tmp_path), job="train", inputs=["abc"]) as run:
        assert not run.done
        run.write_metrics({"accuracy": 0.5})
    assert run.done
    assert run.path.name == f"x-{run.key}"
    assert run.config == config(tmp_path)
    assert run.metrics == {"accuracy": 0.5}
    assert 0 <= run.seconds < 60
    with open_run(config(tmp_path), job="train", inputs=["abc"]) as again:
        assert again.done
        assert again.path == run.path


def test_key_is_of_what_changes_the_result(tmp_path):
    key = run_key(CONFIG, ["abc"])
    assert key == run_key({**CONFIG, "name": "y", "runs_dir": "elsewhere", "logger": {"project": "z"}}, ["abc"])
    assert key == run_key({**CONFIG, "callbacks": {"sample_grid": {"psi": 0.5}, "evaluation": None}}, ["abc"])
    assert key != run_key({**CONFIG, "callbacks": {"evaluation": {"every_ticks": 4}}}, ["abc"])
    assert key == run_key({**CONFIG, "table": "runs/prepare/x", "balance": {"kind": "edit"}, "edit": {}}, ["abc"])
    assert key != run_key({**CONFIG, "table": {"split": None}}, ["abc"])  # prepare describes a table there
    assert key != run_key({**CONFIG, "seed": 1}, ["abc"])
    assert key != run_key(CONFIG, ["abd"])
    assert key != run_key(CONFIG)


NAMES = st.text().filter(lambda name: name not in ("data", "callbacks", "trainer"))  # these have parts


@given(st.dictionaries(NAMES, st.integers() | st.dictionaries(st.text(), st.floats(allow_nan=False))))
def test_key_does_not_depend_on_order(node):
    assert run_key(node) == run_key(dict(reversed(node.items())))


def test_a_renamed_run_is_the_same_run(tmp_path):
    with open_run(config(tmp_path), job="train") as run:
        pass
    with open_run(config(tmp_path, name="other"), job="train") as again:
        assert again.path == run.path


def test_an_interrupted_run_is_not_done_and_keeps_its_files(tmp_path):
    with pytest.raises(KeyboardInterrupt), open_run(config(tmp_path), job="train") as run:
        (run.path / "checkpoint").write_text("half-way")
        raise KeyboardInterrupt
    assert not run.done
    with open_run(config(tmp_path), job="train") as again:
        assert (again.path / "checkpoint").read_text() == "half-way"
    assert again.done


def test_bad_input_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="bad"), open_run(config(tmp_path), job="train") as run:
        raise ValueError("bad")
    assert not run.path.exists()


def _want(tmp_path, order, trained):
    with open_run(config(tmp_path), job="train") as run:
        if not run.done:
            trained.put(order)
            time.sleep(1.0)


def test_two_processes_that_want_one_run_train_once(tmp_path):
    context = mp.get_context("spawn")
    trained = context.Queue()
    processes = [context.Process(target=_want, args=(tmp_path, order, trained)) for order in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    trained.get(timeout=5)
    assert trained.empty()


def test_find_run(tmp_path):
    for seed in range(2):
        with open_run(config(tmp_path, seed=seed), job="train") as run:
            pass
    assert find_run(run.path, tmp_path, holds=GAN) == run
    assert find_run(run.path.name, tmp_path, holds=GAN) == run
    assert find_run(f"train/{run.path.name}", tmp_path, holds=GAN) == run
    assert find_run("x-", tmp_path, holds=GAN) == run  # the newest
    with open_run(config(tmp_path, name="x_longer", seed=2), job="train"):
        pass
    assert find_run("x", tmp_path, holds=GAN) == run  # whole names go before beginnings
    with pytest.raises(NoSuchRun, match="no run nothing"):
        find_run("nothing", tmp_path, holds=GAN)
    (run.path / "DONE").unlink()
    with pytest.raises(ValueError, match="not finished"):
        find_run(run.path, tmp_path, holds=GAN)


def test_a_name_means_the_run_that_holds_what_is_asked_for(tmp_path):
    """A study, a GAN and a table may share a name; the newest of them is not always the one."""
    made = {}
    for job, changes in (("prepare", {}), ("train", {}), ("study", {}), ("train", {"task": "grader"})):
        with open_run(config(tmp_path, name="acne", **changes), job=job) as run:
            made[run.holds] = run
    with open_run(config(tmp_path, name="acne", mode={"seeds": 1}), job="generate") as pictures:
        pass
    for holds, run in made.items():
        assert find_run("acne", tmp_path, holds=holds) == run
    assert find_table("acne", tmp_path) == made[TABLE].path
    with pytest.raises(ValueError, match=rf"names pictures \({pictures.path}\), not a GAN"):
        find_run(pictures.path, tmp_path, holds=GAN)
    with pytest.raises(ValueError, match=r"names a GAN .*, not an image table"):
        find_table(made[GAN].path, tmp_path)


def test_a_name_of_something_else_says_what_it_is(tmp_path):
    for job in ("train", "study"):
        with open_run(config(tmp_path, name="demo"), job=job) as run:
            pass
    with pytest.raises(ValueError, match=rf"demo names a study \({run.path}\), not an image table") as error:
        find_table("demo", tmp_path)
    assert not isinstance(error.value, NoSuchRun)
    with pytest.raises(ValueError, match="demo names a study"):
        table_overrides(["data=demo", f"runs_dir={tmp_path}"])
    with open_run(config(tmp_path, name="demo_faces"), job="prepare") as table:
        pass
    assert find_table("demo", tmp_path) == table.path  # a name that begins so
    assert find_run("demo", tmp_path, holds=STUDY) == run


def test_a_folder_of_ones_own_is_a_table_whatever_lies_in_it(tmp_path):
    (tmp_path / "faces").mkdir()
    assert find_table(tmp_path / "faces", tmp_path) == tmp_path / "faces"
    for name in ("config.yaml", "metadata.csv"):
        (tmp_path / "faces" / name).touch()
    assert find_table(tmp_path / "faces", tmp_path) == tmp_path / "faces"


def test_data_names_a_source_a_folder_or_a_run(tmp_path):
    with open_run(config(tmp_path, name="balanced"), job="generate") as run:
        pass
    assert table_overrides(["data=toy", "seed=1"]) == ["data=toy", "seed=1"]
    asked = ["seed=1", "data=balanced", f"runs_dir={tmp_path}"]
    assert table_overrides(asked) == ["seed=1", "data=table", f"data.root='{run.path}'", f"runs_dir={tmp_path}"]
    assert table_overrides([f"data={tmp_path}"]) == ["data=table", f"data.root='{tmp_path}'"]
    assert table_overrides(["data=mine"]) == ["data=mine"]  # Hydra lists what there is
    own = tmp_path / "conf" / "data" / "balanced.yaml"
    own.parent.mkdir(parents=True)
    own.touch()
    for flag in ([f"--config-dir={tmp_path / 'conf'}"], ["-cd", str(tmp_path / "conf")]):
        assert table_overrides([*flag, *asked]) == [*flag, *asked]  # a source of the user's own
    (run.path / "DONE").unlink()
    with pytest.raises(ValueError, match="not finished"):
        table_overrides(asked)
