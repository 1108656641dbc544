"""Whether the compiled operators are in force, from which library, and why not.

Operators ask one question, `native(device, impl)`. The first time that the answer needs a library, the library is
looked up or compiled (`compiler.py`, `recipes.py`) and loaded; until then importing this costs nothing. Where there can
be no library, one warning says why and the plain reference works on. What the operators compute is not known here.
"""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from math import ceil

import torch

from acne_lab.ops import compiler
from acne_lab.ops.compiler import Build, Unavailable
from acne_lab.ops.recipes import KINDS, compiler_of, recipe

IMPLS = ("auto", "native", "reference")
SECONDS_PER_SOURCE = 11  # to compile one, on a core of its own and for one kind of GPU: for the announcement

_process_impl = os.environ.get("ACNE_LAB_OPS", "auto")
_problems: dict[str, str | None] = {}  # of a kind of device that was asked for: why it has no library, or None
_warned: set[str] = set()


def native(device: torch.device, impl: str = "auto") -> bool:
    """Whether an operator on tensors of `device` runs its compiled kernel (True) or the plain reference (False).

    Args:
        device: where the tensors are.
        impl: native, reference, or auto: what `use` or ACNE_LAB_OPS says and, if that is auto too, native where there
            is a library.

    Raises:
        ValueError: impl or ACNE_LAB_OPS is none of these.
        RuntimeError: native is wanted and there is no library; it says why.
    """
    wanted = _process_impl if impl == "auto" else impl
    if wanted not in IMPLS:
        raise ValueError(f"there is no implementation {wanted!r}: impl and ACNE_LAB_OPS are one of {', '.join(IMPLS)}")
    if wanted == "reference":
        return False
    kind = device.type
    if kind not in _problems:
        _problems[kind] = _load(kind)
    problem = _problems[kind]
    if problem is None:
        return True
    if wanted == "native":
        raise RuntimeError(f"no compiled operators for {kind}: {problem}")
    _warn_once(kind, problem)
    return False


@contextmanager
def use(impl: str) -> Iterator[None]:
    """Within the block, in every thread, `impl` holds for operators that are called with impl="auto"."""
    global _process_impl
    before, _process_impl = _process_impl, impl
    try:
        yield
    finally:
        _process_impl = before


def find(kind: str) -> Build | None:
    """What is known of a kind's library without compiling; None if it can and has to be compiled.

    Raises:
        Unavailable: there is none, and it cannot be compiled.
    """
    made_of = recipe(kind)
    try:
        tool = compiler_of(kind)
    except Unavailable:
        # It may have been compiled where there is a compiler: on a cluster's login node, say.
        if found := compiler.find(made_of, None):
            return found
        raise
    return compiler.find(made_of, tool)


def prepare(kind: str, *, retry: bool = False) -> Build:
    """The library of a kind of device, compiled if need be, or how compiling failed.

    Args:
        kind: "cpu" or "cuda".
        retry: compile again what has failed before.

    Raises:
        Unavailable: there is none, and it cannot be compiled.
    """
    known = find(kind)
    if known and not (known.error and retry):
        return known
    made_of = recipe(kind)
    seconds = ceil(len(made_of.sources) / len(os.sched_getaffinity(0))) * SECONDS_PER_SOURCE
    announcement = f"compiling {kind.upper()} kernels, once: about {seconds} s"
    return compiler.build(made_of, compiler_of(kind), announcement=announcement, retry=retry)


@dataclass(frozen=True)
class State:
    """What operators with impl="auto" do on a kind of device.

    Args:
        impl: "native", "reference" or, because native is demanded and there is no library, "error".
        why: a reason, or what is still to be done; "" where there is nothing to say.
        build: the library, or how compiling it has failed; None if there is neither.
    """

    impl: str
    why: str
    build: Build | None


def state(kind: str) -> State:
    """What is in force and why, without compiling."""
    found = problem = None
    try:
        found = find(kind)
    except Unavailable as reason:
        problem = str(reason)
    if _process_impl == "reference":
        return State("reference", "ACNE_LAB_OPS says so", found)
    if found is None and problem is None:
        return State("native", "not compiled yet: the first use does it, or `acne-lab ops build`", None)
    problem = problem or _load(kind)
    if problem is None:
        return State("native", "", found)
    return State("error" if _process_impl == "native" else "reference", problem, found)


def _warn_once(kind: str, problem: str) -> None:
    if kind in _warned or kind not in KINDS:
        return
    _warned.add(kind)
    warnings.warn(
        f"no compiled operators for {kind}, so the slower reference (ACNE_LAB_OPS=reference: without a warning): "
        f"{problem}",
        RuntimeWarning,
        stacklevel=4,
    )


def _load(kind: str) -> str | None:
    """Load the library; return None, or why that is not possible."""
    try:
        library = prepare(kind).library
    except (Unavailable, OSError) as problem:
        return str(problem)
    if library is None:
        return "compiling failed (`acne-lab ops info` shows how, `acne-lab ops build` tries again)"
    import_module("acne_lab.ops.schemas")
    try:
        torch.ops.load_library(library)
    except OSError as error:
        return f"{error.__cause__ or error} (without the folder {library.parent} it is compiled again)"
    return None


# torch.compile takes their results for constants instead of tracing them. (This is what
# torch.compiler.assume_constant_result does, after an import of seconds.)
_load._dynamo_marked_constant = _warn_once._dynamo_marked_constant = True
