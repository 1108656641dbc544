import pytest
from fake_study import StudyWriter, full_study


@pytest.fixture(scope="session")
def full(tmp_path_factory) -> StudyWriter:
    writer = full_study(tmp_path_factory.mktemp("full"))
    writer.study_dir = writer.write()
    return writer
