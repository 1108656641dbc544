"""`acne-lab VERB overrides...`: hands over to `python -m acne_lab.jobs VERB`, importing nothing heavy itself."""

import os
import sys
from difflib import get_close_matches

VERBS = {
    "prepare": "build an image table: read, check, split (data=toy|folder|acne04|acnegan)",
    "train": "train a GAN or a grader (experiment=gan_base|gan_severity|grader|probe)",
    "generate": "sample a data set from GANs (run=... num_images=...), or draw their latent space (mode=walk)",
    "balance": "fill the rare severities of a table with edits of its photographs (table=... balance=acnedit)",
    "evaluate": "how real the edits of a balance run are, and what gives them away (table=RUN)",
    "explain": "where a grader looks: heat maps, and how much of them lies on lesions (run=GRADER)",
    "study": "run a graph of jobs, reusing what is done (study=demo)",
    "report": "write the HTML page of a study or of an image table again (study=demo|data=TABLE)",
    "convert": "networks from one kind of file into another (file=... to=x.safetensors|x.pt|x.onnx)",
    "ops": "the compiled operators: compile, compare with the reference, show what is in force (build|check|info)",
    "runs": "list the runs",
    "bench": "how fast training and generation are here, and how near to the machine's limit (out=bench.json)",
}

HELP = """acne-lab: does synthetic acne help a grader?

usage: acne-lab VERB [key=value ...]

{verbs}

`acne-lab VERB --help` shows a verb's config, key=value changes it, -m sweeps over comma-separated values.
Results lie in ./runs; repeating a command continues or reuses its run.
"""


def main() -> None:
    verb, *rest = sys.argv[1:] or ["--help"]
    if verb in ("-h", "--help", "help"):
        print(HELP.format(verbs="\n".join(f"  {name:<10} {text}" for name, text in VERBS.items())))
        return
    if verb == "--version":
        from acne_lab import __version__

        print(__version__)
        return
    if verb not in VERBS:
        close = get_close_matches(verb, VERBS, n=1)
        hint = f": did you mean {close[0]}?" if close else f": the verbs are {', '.join(VERBS)}"
        sys.exit(f"acne-lab: no verb {verb!r}{hint}")
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "acne_lab.jobs", verb, *rest])


if __name__ == "__main__":
    main()
