"""What tests of several rooms use."""

from pathlib import Path

import pytest
from hypothesis import settings
from tiny import TOY, composed

# The same examples at every run, so that a run fails for a change's sake only; `make test-all` draws new ones.
settings.register_profile("same", derandomize=True)
settings.load_profile("same")


@pytest.fixture(scope="session")
def toy_runs(tmp_path_factory) -> Path:
    """A runs folder with 80 toy faces of 32 px prepared in it; read only for tests."""
    from acne_lab.jobs.prepare import prepare

    runs_dir = tmp_path_factory.mktemp("runs")
    prepare(composed("prepare", *TOY, f"runs_dir={runs_dir}"))
    return runs_dir
