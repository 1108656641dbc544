"""`acne-lab generate mode=video`: an endless film of faces that turn into one another."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from acne_lab.gan.latent import closed_arcs, closed_spline, seeded_z
from acne_lab.jobs.explore import Numbers, Painter, Sheet, as_numbers, only, seed_labels

FORMATS = ("mp4", "gif")
SPACES = ("z", "w")
MIN_SIDE = 256  # pixels; smaller frames are enlarged


def draw_video(
    painters: dict[str, Painter],
    folder: Path,
    *,
    seeds: Numbers,
    space: str,
    num_frames: int,
    fps: int,
    format: str,
    psi: float,
    severity: str | None,
) -> Sheet:
    """A film through the faces of these numbers and back to the first; the sheet shows these faces.

    Args:
        space: "z" goes on great arcs and is at each moment as likely a face as any; "w" goes on a smooth curve.
        num_frames: from one face to the next.
        format: "mp4", which needs the package imageio-ffmpeg (a GIF is written without it), or "gif".
    """
    painter, numbers = only(painters), as_numbers(seeds, "seeds")
    if len(numbers) < 2:
        raise ValueError("a film goes from face to face: give two seeds or more, mode.seeds=0-7")
    if space not in SPACES or format not in FORMATS:
        raise ValueError(f"space must be {' or '.join(SPACES)} and format {' or '.join(FORMATS)}")
    if num_frames < 1 or not 1 <= fps <= 50:
        raise ValueError(f"num_frames must be at least 1 and fps from 1 to 50, not {num_frames} and {fps}")
    keys = painter.numbered(numbers, psi=psi, severity=severity)
    if space == "z":
        z, _ = seeded_z(numbers, z_dim=painter.G.z_dim, seed=painter.seed)
        ws = painter.map(closed_arcs(z, num_frames), psi=psi, severity=severity)
    else:
        ws = closed_spline(keys, num_frames)

    frames = (as_frame(picture) for picture in painter.paint(ws))
    path = write_video(frames, folder / "video", format=format, fps=fps)
    return Sheet(
        title=f"{painter.title(psi, severity)}: the faces of {path.name}",
        rows=[list(painter.paint(keys))],
        names=[seed_labels(numbers)],
        captions=[seed_labels(numbers)],
        about={"seeds": numbers, "video": path.name, "frames": len(ws)},
    )


def as_frame(picture: Image.Image) -> Image.Image:
    """RGB, transparent parts white, at least 256 px."""
    if picture.mode == "RGBA":
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    side = max(picture.width, MIN_SIDE)
    return picture.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)


def write_video(frames: Iterator[Image.Image], path: Path, *, format: str, fps: int) -> Path:
    """Write frames of one size to PATH.mp4 (H.264) or PATH.gif (endless), and say which it was."""
    if format == "mp4" and importlib.util.find_spec("imageio_ffmpeg") is None:
        print("no package imageio-ffmpeg (pip install 'acne-lab[video]'): writing a GIF, not an MP4", file=sys.stderr)
        format = "gif"
    path = path.with_suffix(f".{format}")
    first = next(frames)
    if format == "gif":
        first.save(path, save_all=True, append_images=frames, duration=round(1000 / fps), loop=0)
        return path
    import imageio_ffmpeg

    writer = imageio_ffmpeg.write_frames(str(path), first.size, fps=fps, quality=8)
    writer.send(None)
    writer.send(first.tobytes())
    for frame in frames:
        writer.send(frame.tobytes())
    writer.close()
    return path
