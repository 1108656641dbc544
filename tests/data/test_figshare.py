"""Downloads from a real server on this machine: broken off, refused, wrong, slow to come."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from fake_figshare import FakeFigshare, serving

from acne_lab.data.figshare import Patience, RemoteFile, Unavailable, _Again, article_files, download

CONTENT = np.random.default_rng(0).bytes(1_000_000)
HASTY = Patience(num_tries=3, wait=0.001)


@pytest.fixture
def figshare(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with serving(FakeFigshare({"mild.zip": CONTENT, "read me.txt": b"four classes"})) as server:
        yield server


def the_file(figshare: FakeFigshare) -> RemoteFile:
    return article_files(7, api=figshare.api, patience=HASTY)[0]


def fetch(figshare: FakeFigshare, folder, **changes):
    return download(replace(the_file(figshare), **changes), folder, patience=HASTY)


def parts(folder):
    return [path.name for path in folder.iterdir() if path.name.endswith(".part")]


def test_files_are_listed_and_fetched(figshare, tmp_path):
    files = article_files(7, api=figshare.api)
    assert [(file.name, file.size) for file in files] == [("mild.zip", 1_000_000), ("read me.txt", 12)]
    assert files[0].md5 == hashlib.md5(CONTENT).hexdigest()
    paths = [download(file, tmp_path / "new") for file in files]
    assert paths == [tmp_path / "new" / "mild.zip", tmp_path / "new" / "read me.txt"]
    assert paths[0].read_bytes() == CONTENT
    assert parts(tmp_path / "new") == []


def test_a_file_that_is_there_is_not_fetched_again(figshare, tmp_path):
    fetch(figshare, tmp_path)
    fetch(figshare, tmp_path)
    assert figshare.asked["/file/download/0"] == 1


def test_another_file_of_that_name_is_left_alone(figshare, tmp_path):
    (tmp_path / "mild.zip").write_bytes(b"mine")
    with pytest.raises(ValueError, match="4 bytes, not 1,000,000"):
        fetch(figshare, tmp_path)
    assert (tmp_path / "mild.zip").read_bytes() == b"mine"


def test_a_long_list_comes_in_pages(figshare):
    figshare.files |= {f"{number}.jpg": b"x" for number in range(248)}
    assert len(article_files(7, api=figshare.api)) == 250
    assert figshare.asked["/articles/7/files"] == 3


def test_a_broken_connection_goes_on_where_it_broke(figshare, tmp_path):
    figshare.breaks_off = 4  # more often than there are tries: each brings something
    assert fetch(figshare, tmp_path).read_bytes() == CONTENT
    starts = [asked for path, asked in figshare.requests if path == "/file/download/0"]
    assert starts == [None, "bytes=500000-", "bytes=750000-", "bytes=875000-", "bytes=937500-"]


def test_a_command_that_was_stopped_goes_on_where_it_was(figshare, tmp_path):
    file = the_file(figshare)
    (tmp_path / f".mild.zip.{file.md5}.part").write_bytes(CONTENT[:300_000])
    assert download(file, tmp_path).read_bytes() == CONTENT
    assert figshare.requests[-1] == ("/file/download/0", "bytes=300000-")


def test_a_server_without_ranges_sends_it_all_again(figshare, tmp_path):
    figshare.knows_ranges = False
    figshare.breaks_off = 1
    assert fetch(figshare, tmp_path).read_bytes() == CONTENT
    assert [asked for _, asked in figshare.requests[1:]] == [None, "bytes=500000-"]


def test_nothing_is_taken_over_from_another_version(figshare, tmp_path):
    (tmp_path / f".mild.zip.{'0' * 32}.part").write_bytes(b"old" * 1000)
    assert fetch(figshare, tmp_path).read_bytes() == CONTENT


def test_a_part_that_is_spoilt_is_fetched_anew(figshare, tmp_path):
    file = the_file(figshare)
    (tmp_path / f".mild.zip.{file.md5}.part").write_bytes(b"x" * 300_000)
    assert download(file, tmp_path).read_bytes() == CONTENT
    assert figshare.requests[-1] == ("/browser/0", None)


def test_a_file_that_changed_after_it_was_listed_is_not_taken(figshare, tmp_path):
    file = the_file(figshare)
    figshare.files["mild.zip"] = CONTENT[::-1]
    with pytest.raises(Unavailable, match=f"md5 .*, not {file.md5}"):
        download(file, tmp_path, patience=HASTY)
    figshare.files["mild.zip"] = CONTENT + b"more"
    with pytest.raises(Unavailable, match="sends 1000004 bytes, not the 1000000"):
        download(file, tmp_path, patience=HASTY)
    (tmp_path / f".mild.zip.{file.md5}.part").write_bytes(CONTENT[:10])
    with pytest.raises(Unavailable, match="was asked for bytes from 10 of 1000000 and sends bytes 10-1000003/1000004"):
        download(file, tmp_path, patience=HASTY)
    assert not (tmp_path / "mild.zip").exists()


def test_a_wrong_checksum_is_refused_and_leaves_nothing(figshare, tmp_path):
    with pytest.raises(Unavailable, match="not 0000"):
        fetch(figshare, tmp_path, md5="0" * 32)
    assert parts(tmp_path) == []
    assert not (tmp_path / "mild.zip").exists()


def test_a_server_that_is_busy_is_asked_again(figshare, tmp_path):
    figshare.answers = [503, 429]
    file = the_file(figshare)
    figshare.answers = [500, 502]
    assert download(file, tmp_path, patience=HASTY).read_bytes() == CONTENT
    assert figshare.asked == {"/articles/7/files": 3, "/file/download/0": 3}


def test_a_server_that_stays_busy_is_given_up(figshare):
    figshare.answers = [429] * 9
    with pytest.raises(Unavailable, match="answers 429 Too Many Requests; tried 3 times"):
        the_file(figshare)
    assert len(figshare.requests) == 3


def test_an_article_that_is_not_there_is_asked_for_once(figshare):
    with pytest.raises(Unavailable, match="answers 404 Not Found"):
        article_files(8, api=figshare.api, patience=HASTY)
    assert len(figshare.requests) == 1


def test_where_one_address_asks_for_a_person_the_next_is_tried(figshare, tmp_path):
    figshare.refuses_programs = True
    assert fetch(figshare, tmp_path).read_bytes() == CONTENT
    file = replace(the_file(figshare), urls=(f"{figshare.api}/file/download/0",))
    with pytest.raises(Unavailable, match="answers 202"):
        download(file, tmp_path / "other", patience=HASTY)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"name": "../../etc/passwd"}, "not the name of a file"),
        ({"name": ".bashrc"}, "not the name of a file"),
        ({"is_link_only": True}, "is not kept by figshare"),
        ({"size": None}, "does not answer as figshare's API does"),
    ],
)
def test_a_list_that_cannot_be_trusted_is_refused(figshare, said, message):
    figshare.listed["mild.zip"] = said
    with pytest.raises(Unavailable, match=message):
        the_file(figshare)


@pytest.mark.parametrize("wrong", [{"id": "abc"}, {"size": "many"}, {"size": None}])
def test_an_answer_with_a_wrong_number_is_no_answer_of_figshare(figshare, wrong):
    figshare.listed = {"mild.zip": wrong}
    with pytest.raises(Unavailable, match="does not answer as figshare's API does"):
        the_file(figshare)


def test_local_files_are_no_web_addresses(figshare, tmp_path):
    with pytest.raises(Unavailable, match="no web address"):
        fetch(figshare, tmp_path, urls=("file:///etc/hostname",))


def test_without_a_network_the_error_comes_at_once(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(Unavailable, match="cannot be reached"):
        article_files(7, api="http://figshare.invalid/v2")  # .invalid is never a name (RFC 2606)


def test_no_server_at_an_address_is_given_up_after_some_tries(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(Unavailable, match=r"cannot be reached .*; tried 3 times"):
        article_files(7, api="http://127.0.0.1:9", patience=HASTY)


def test_the_server_says_how_long_to_wait(monkeypatch):
    waits = []
    monkeypatch.setattr("time.sleep", waits.append)

    def busy(seconds):
        raise _Again("busy", seconds=seconds)

    with pytest.raises(Unavailable):
        Patience(num_tries=4, wait=1)(lambda: busy(0))
    with pytest.raises(Unavailable):
        Patience(num_tries=2, wait=1)(lambda: busy(30))
    with pytest.raises(Unavailable):
        Patience(num_tries=2, wait=1)(lambda: busy(9999))
    assert waits == [1, 2, 4, 30, 120]
