"""The modes of `acne-lab generate` that draw one sheet: seeds, psi, mix, sefa, walk. Their options are in conf/mode.

In all of them `seeds` are numbers of faces (7, 0-31, [0-31,77]), `psi` is the truncation, from -1 to 2, and `severity`
is the class, for a conditional GAN.
"""

from collections.abc import Sequence
from itertools import chain, islice
from pathlib import Path

import torch

from acne_lab.gan.latent import mix_styles, seeded_z, sefa_directions, walk
from acne_lab.jobs.explore import Numbers, Painter, Sheet, as_numbers, as_text, only, seed_labels


def draw_seeds(
    painters: dict[str, Painter],
    folder: Path,
    *,
    seeds: Numbers,
    psi: float,
    severity: str | None,
    columns: int,
) -> Sheet:
    """The faces of these numbers, each with its own noise: the images of a table of the same seed and psi."""
    painter, numbers = only(painters), as_numbers(seeds, "seeds")
    ws = painter.numbered(numbers, psi=psi, severity=severity)
    _, rngs = seeded_z(numbers, z_dim=painter.G.z_dim, seed=painter.seed)
    pictures = list(painter.paint(ws, rngs=rngs))
    rows = [slice(start, start + columns) for start in range(0, len(numbers), columns)]
    return Sheet(
        title=painter.title(psi, severity),
        rows=[pictures[row] for row in rows],
        names=[[f"seed{number:06d}" for number in numbers[row]] for row in rows],
        captions=[seed_labels(numbers[row]) for row in rows],
        about={"seeds": numbers},
    )


def draw_psi(
    painters: dict[str, Painter],
    folder: Path,
    *,
    seeds: Numbers,
    psis: Sequence[float],
    severity: str | None,
) -> Sheet:
    """What truncation does: a row a seed, a column a psi."""
    painter, numbers = only(painters), as_numbers(seeds, "seeds")
    ws = torch.stack([painter.numbered(numbers, psi=psi, severity=severity) for psi in psis], dim=1)
    columns = [f"psi {psi:g}" for psi in psis]
    title = painter.title(None, severity)
    return Sheet.crossed(title, painter.paint(ws.flatten(0, 1)), seed_labels(numbers), columns, {"seeds": numbers})


def draw_mix(
    painters: dict[str, Painter],
    folder: Path,
    *,
    rows: Numbers,
    columns: Numbers,
    layers: Numbers,
    psi: float,
    severity: str | None,
) -> Sheet:
    """Style mixing: the face of each row with some layers of each column's; the unmixed ones on the left and on top."""
    painter, left, top = only(painters), as_numbers(rows, "rows"), as_numbers(columns, "columns")
    given, layers = as_text(layers), checked_layers(layers, painter)
    left_ws, top_ws = (painter.numbered(numbers, psi=psi, severity=severity) for numbers in (left, top))
    mixed = [mix_styles(ws.expand_as(top_ws), top_ws, layers) for ws in left_ws]
    top_faces, left_faces = list(painter.paint(top_ws)), list(painter.paint(left_ws))
    inner = painter.paint(torch.cat(mixed))
    row_labels, column_labels = seed_labels(left), seed_labels(top)
    return Sheet(
        title=f"{painter.title(psi, severity)}: faces on the left with layers {given} of those on top",
        rows=[[None, *top_faces], *([face, *islice(inner, len(top))] for face in left_faces)],
        names=[
            ["", *(f"column_{column}" for column in column_labels)],
            *([f"row_{row}", *(f"{row}_{column}" for column in column_labels)] for row in row_labels),
        ],
        captions=[["", *column_labels]],
        row_labels=["", *row_labels],
        about={"rows": left, "columns": top, "layers": layers},
    )


def draw_sefa(
    painters: dict[str, Painter],
    folder: Path,
    *,
    seeds: Numbers,
    num_directions: int,
    layers: Numbers | None,
    strength: float,
    num_steps: int,
    psi: float,
    severity: str | None,
) -> Sheet:
    """What changes faces most: a row for each SeFa direction and seed, from -strength to +strength in w."""
    painter, numbers = only(painters), as_numbers(seeds, "seeds")
    layers = None if layers is None else checked_layers(layers, painter)
    if not 1 <= num_directions <= painter.G.w_dim:
        raise ValueError(f"num_directions must be from 1 to {painter.G.w_dim}, not {num_directions}")
    directions, eigenvalues = sefa_directions(painter.G.synthesis, num_directions, layers=layers)
    steps = torch.linspace(-strength, strength, num_steps)
    faces = painter.numbered(numbers, psi=psi, severity=severity)
    ws = torch.cat([walk(face, direction, steps, layers=layers) for direction in directions for face in faces])
    return Sheet.crossed(
        f"{painter.title(psi, severity)}: moved along the directions of strongest change, by so much in w",
        painter.paint(ws),
        [f"direction {i}, {label}" for i in range(1, num_directions + 1) for label in seed_labels(numbers)],
        [f"{step:+.1f}" for step in steps.tolist()],
        {"seeds": numbers, "layers": layers, "eigenvalues": eigenvalues.tolist()},
    )


def draw_walk(
    painters: dict[str, Painter],
    folder: Path,
    *,
    seeds: Numbers,
    mapping: str | None,
    psi: float,
) -> Sheet:
    """One face through models that were fine-tuned from the same one: a row a face, a column a model.

    Fine-tuning keeps latents aligned: the same w is the same person in all of them. One model maps z to w, the one
    that `mapping` names or the first, and the synthesis networks of all draw that w.
    """
    numbers = as_numbers(seeds, "seeds")
    if len(painters) < 2:
        raise ValueError("a walk needs the models on its way: 'run={mild: RUN, moderate: RUN, severe: RUN}'")
    if mapping is not None and str(mapping) not in painters:
        raise ValueError(f"mapping={mapping} is not one of the runs: {', '.join(painters)}")
    mapper = next(iter(painters.values())) if mapping is None else painters[str(mapping)]
    for label, painter in painters.items():
        if painter.gan.is_conditional:
            raise ValueError(f"{label} is a conditional GAN: a walk is through models of one severity each")
        if (painter.G.num_ws, painter.G.w_dim) != (mapper.G.num_ws, mapper.G.w_dim):
            raise ValueError(
                f"{label} has {painter.G.num_ws} layers of w with {painter.G.w_dim} numbers, the model that maps has "
                f"{mapper.G.num_ws} with {mapper.G.w_dim}: walk through models that were fine-tuned from the same one"
            )
    ws = mapper.numbered(numbers, psi=psi, severity=None)
    faces = zip(*(painter.paint(ws) for painter in painters.values()))
    title = f"one w of {mapper.gan.name} through every model, psi {psi:g}"
    return Sheet.crossed(title, chain.from_iterable(faces), seed_labels(numbers), list(painters), {"seeds": numbers})


def checked_layers(given: Numbers, painter: Painter) -> list[int]:
    """Rows of ws; ValueError where the generator has not so many."""
    layers = as_numbers(given, "layers")
    if max(layers) >= painter.G.num_ws:
        raise ValueError(f"layers must lie in 0-{painter.G.num_ws - 1} for this generator, not {given}")
    return layers
