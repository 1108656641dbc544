"""`acne-lab ops build|check|info [device=cpu|cuda]`: the compiled operators.

build  compiles them now instead of at their first use, and again if that has failed before
check  compares them with the plain reference: values, first and second gradients, and time
info   shows what is in force on each kind of device and why, without compiling
"""

import argparse
import os
import sys

import torch

from acne_lab.ops import extension
from acne_lab.ops.check import Comparison, compare_all
from acne_lab.ops.compiler import Unavailable, cache_dir
from acne_lab.ops.recipes import KINDS


def build(kind: str) -> bool:
    """Compile what is not compiled and print where it is; return whether it is there."""
    try:
        made = extension.prepare(kind, retry=True)
    except Unavailable as problem:
        print(f"error: no {kind.upper()} kernels: {problem}", file=sys.stderr)
        return False
    if made.error:
        print(f"{made.error}\nerror: the {kind.upper()} kernels do not compile", file=sys.stderr)
        return False
    print(made.library)
    return True


def check(kind: str) -> bool:
    """Print a table of comparisons; return whether all of them are within tolerance."""
    passed = True
    try:
        for number, compared in enumerate(compare_all(kind)):
            if number == 0:
                print(HEAD)
            print(line_of(kind, compared), flush=True)
            passed = passed and compared.passed
    except RuntimeError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return False
    return passed


HEAD = """\
        largest error, as a share of the largest number, of:            ms with gradient
                                           value     grad  2nd grad     native reference"""


def line_of(kind: str, compared: Comparison) -> str:
    name = f"{kind:<5} {compared.case:<17} {str(compared.dtype).removeprefix('torch.'):<9}{compared.memory_format:<5}"
    errors = "".join(f"{error:9.0e}" for error in compared.errors)
    ratio = compared.reference_ms / compared.native_ms
    times = f"{compared.native_ms:12.2f}{compared.reference_ms:10.2f} {ratio:6.1f}x"
    return name + errors + times + ("" if compared.passed else "  WRONG")


def info(kind: str) -> bool:
    """Print what is in force and where it comes from."""
    state = extension.state(kind)
    made = state.build
    why = hardware(kind) if state.impl == "native" and made else state.why
    print(f"{kind:<5} {state.impl}: {why}")
    if made:
        print(f"      {made.library or 'compiled in vain'}")
        print(f"      by {made.compiler} in {made.seconds:.0f} s")
        for line in (made.error or "").splitlines():
            print(f"      | {line}")
    return True


def hardware(kind: str) -> str:
    """What kernels run on here."""
    if kind == "cpu":
        return f"{torch.ops.acne_lab.cpu_instruction_set()}, {torch.get_num_threads()} threads"
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "no device"


ACTIONS = {"build": build, "check": check, "info": info}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="acne-lab ops", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=ACTIONS)
    parser.add_argument(
        "overrides", nargs="*", metavar="device=cpu|cuda", help="only these; default: all that are here"
    )
    given = parser.parse_args()
    here = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    buildable = ["cpu", "cuda"] if "TORCH_CUDA_ARCH_LIST" in os.environ else here
    kinds = {f"device={kind}": [kind] for kind in KINDS}
    kinds[""] = {"build": buildable, "check": here, "info": list(KINDS)}[given.action]
    wanted = " ".join(given.overrides)
    if wanted not in kinds:
        sys.exit(f"error: {wanted}: the only argument is device=cpu or device=cuda")
    done = [ACTIONS[given.action](kind) for kind in kinds[wanted]]
    if given.action == "info":
        print(f"ACNE_LAB_OPS={os.environ.get('ACNE_LAB_OPS', 'auto')}, cache {cache_dir() / 'ops'}")
    sys.exit(0 if all(done) else 1)


if __name__ == "__main__":
    main()
