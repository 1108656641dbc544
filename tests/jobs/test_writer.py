"""Pictures written by other processes: whole, in time, and with a clear error when something happens to them."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image

from acne_lab.jobs.writer import PictureWriter, write_picture


def noise(side=64):
    return Image.effect_noise((side, side), 60).convert("RGB")


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_all_pictures_are_there_at_the_end(tmp_path, suffix):
    pictures = {tmp_path / f"{i}.{suffix}": noise() for i in range(9)}
    with PictureWriter(num_workers=2, max_waiting=3) as writer:
        for path, picture in pictures.items():
            writer.put(path, picture)
            assert len(writer.waiting) <= 3
    assert set(tmp_path.iterdir()) == set(pictures)
    for path, picture in pictures.items():
        write_picture(tmp_path / f"here.{suffix}", picture)
        assert path.read_bytes() == (tmp_path / f"here.{suffix}").read_bytes()


def test_png_is_lossless(tmp_path):
    picture = noise()
    write_picture(tmp_path / "a.png", picture)
    assert Image.open(tmp_path / "a.png").tobytes() == picture.tobytes()


def test_a_killed_process_is_an_error_and_takes_the_others_with_it(tmp_path):
    with (
        pytest.raises(ChildProcessError, match=r"was ended from outside.*repeat the command"),
        PictureWriter(num_workers=2, max_waiting=4) as writer,
    ):
        writer.put(tmp_path / "first.png", noise())
        processes = multiprocessing.active_children()
        os.kill(processes[0].pid, signal.SIGKILL)
        for i in range(100):
            writer.put(tmp_path / f"{i}.png", noise())
    assert not any(process.is_alive() for process in processes)


def test_a_picture_that_cannot_be_written_is_an_error(tmp_path):
    with (
        pytest.raises(OSError, match=r"nowhere/a\.png could not be written .*No such file.*it goes on"),
        PictureWriter(num_workers=1, max_waiting=4) as writer,
    ):
        writer.put(tmp_path / "nowhere" / "a.png", noise())


def test_a_full_disk_leaves_no_half_a_picture(tmp_path):
    """The limit on a file's size, which the other processes inherit, stands in for the disk."""
    script = f"""
import resource
from pathlib import Path
from PIL import Image
from acne_lab.jobs.writer import PictureWriter
if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
    folder = Path({str(tmp_path)!r})
    with PictureWriter(num_workers=1, max_waiting=1) as writer:
        writer.put(folder / "small.png", Image.new("RGB", (64, 64)))
        writer.put(folder / "large.png", Image.effect_noise((128, 128), 60))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "large.png could not be written" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["small.png"]


def test_the_network_does_not_wait_for_the_pictures(tmp_path):
    """`put` comes back before the picture, which takes a while to encode, is written."""
    large = Image.effect_noise((1500, 1500), 60)
    with PictureWriter(num_workers=1, max_waiting=8) as writer:
        writer.put(tmp_path / "first.png", noise())
        while not (tmp_path / "first.png").exists():
            time.sleep(0.01)
        for i in range(3):
            writer.put(tmp_path / f"{i}.png", large)
        assert not (tmp_path / "2.png").exists()
    assert (tmp_path / "2.png").exists()


def test_its_processes_load_no_torch():
    script = "import sys, acne_lab.jobs.writer; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
