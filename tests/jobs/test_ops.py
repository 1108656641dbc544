"""`acne-lab ops build|check|info` on sources that compile, that do not, and on operators that are wrong."""

import sys
from pathlib import Path

import pytest
import torch

from acne_lab.jobs import ops
from acne_lab.ops import check, extension, recipes
from acne_lab.ops.check import Case

CPU = torch.device("cpu")


@pytest.fixture
def source(tmp_path, monkeypatch) -> Path:
    """The only source of the CPU's library, in a process that has asked for nothing."""
    (tmp_path / "csrc" / "cpu").mkdir(parents=True)
    monkeypatch.setattr(recipes, "CSRC", tmp_path / "csrc")
    monkeypatch.setattr(extension, "_problems", {})
    monkeypatch.setattr(extension, "_process_impl", "auto")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setenv("ACNE_LAB_CACHE", str(tmp_path / "cache"))
    for name in ("ACNE_LAB_OPS", "CXX", "TORCH_CUDA_ARCH_LIST"):
        monkeypatch.delenv(name, raising=False)
    source = tmp_path / "csrc" / "cpu" / "one.cpp"
    source.write_text("int one = 1;\n")
    return source


def command(monkeypatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["ops", *words])
    with pytest.raises(SystemExit) as ended:
        ops.main()
    return ended.value.code


def test_build(source, monkeypatch, capsys):
    assert command(monkeypatch, "build") == 0
    printed = capsys.readouterr()
    library = Path(printed.out.strip())
    assert library.is_file()
    assert printed.err.startswith("compiling CPU kernels")
    assert command(monkeypatch, "build", "device=cpu") == 0
    assert capsys.readouterr() == (f"{library}\n", "")


def test_build_tries_again_what_has_failed(source, monkeypatch, capsys):
    source.write_text("#error not today\n")
    for _ in range(2):
        assert command(monkeypatch, "build") == 1
        printed = capsys.readouterr().err
        assert "not today" in printed
        assert printed.startswith("compiling CPU kernels")
        assert printed.endswith("error: the CPU kernels do not compile\n")


def test_build_without_a_compiler(source, monkeypatch, capsys):
    monkeypatch.setenv("CXX", "no-such-c++")
    assert command(monkeypatch, "build") == 1
    assert capsys.readouterr().err == "error: no CPU kernels: there is no compiler no-such-c++\n"


def test_info_does_not_compile(source, monkeypatch, tmp_path, capsys):
    assert command(monkeypatch, "info", "device=cpu") == 0
    assert capsys.readouterr().out.splitlines() == [
        "cpu   native: not compiled yet: the first use does it, or `acne-lab ops build`",
        f"ACNE_LAB_OPS=auto, cache {tmp_path / 'cache' / 'ops'}",
    ]
    assert not (tmp_path / "cache").exists()


def test_info_shows_why(source, monkeypatch, capsys):
    source.write_text("#error not today\n")
    command(monkeypatch, "build")
    capsys.readouterr()
    assert command(monkeypatch, "info") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("cpu   reference: compiling failed")
    assert any(line.startswith("      | ") and "not today" in line for line in lines)
    assert any(line.startswith("cuda  reference: ") for line in lines)

    monkeypatch.setattr(extension, "_process_impl", "native")
    assert command(monkeypatch, "info", "device=cpu") == 0
    assert capsys.readouterr().out.startswith("cpu   error: compiling failed")
    monkeypatch.setattr(extension, "_process_impl", "reference")
    assert command(monkeypatch, "info", "device=cpu") == 0
    assert capsys.readouterr().out.startswith("cpu   reference: ACNE_LAB_OPS says so")


@pytest.mark.parametrize(("factor", "code"), [(1.0, 0), (1.01, 1)])
def test_check_says_what_is_wrong(source, monkeypatch, capsys, factor, code):
    monkeypatch.setattr(extension, "_problems", {"cpu": None})
    double = Case("double", lambda x: x * (2 * factor if extension.native(CPU) else 2), ((1, 2, 3, 4),))
    monkeypatch.setattr(check, "cases", lambda device: [double])
    assert command(monkeypatch, "check") == code
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + 2 * len(check.DTYPES["cpu"])
    assert any(line.endswith("WRONG") for line in lines) == bool(code)


def test_check_without_a_library(source, monkeypatch, capsys):
    monkeypatch.setenv("CXX", "no-such-c++")
    assert command(monkeypatch, "check") == 1
    assert capsys.readouterr().err == "error: no compiled operators for cpu: there is no compiler no-such-c++\n"


@pytest.mark.parametrize("words", [("info", "device=tpu"), ("build", "device=cpu", "device=cuda")])
def test_other_arguments(source, monkeypatch, words):
    assert "the only argument is device=cpu or device=cuda" in command(monkeypatch, *words)
