"""A study folder as the jobs leave it: plausible curves and small drawn faces, every file written by hand.

It follows the description of the formats, not the code that writes them, so a change of either shows.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import yaml
from PIL import Image, ImageDraw, ImageFilter
from pyarrow import parquet
from scipy import stats

CLASSES = ("mild", "moderate", "severe", "very severe")
COUNTS = {"train": (72, 90, 36, 24), "val": (16, 20, 8, 6), "test": (24, 30, 12, 9)}


class StudyWriter:
    """Writes the run folders of a study under `root/runs`; `write` adds study.json and returns its folder."""

    def __init__(self, root: Path, *, classes: tuple[str, ...] = CLASSES, question: str = "") -> None:
        self.runs_dir = root / "runs"
        self.classes = classes
        self.question = question or "Does adding generated faces help the grader on faces it has never seen?"
        self.stages: dict[str, dict] = {}
        self.arms: dict[str, list[str]] = {}
        self.seeds: list[int] = []
        self.baseline: str | None = None
        self.counts = COUNTS
        self.rng = np.random.default_rng(7)

    def prepare(self, *, source: str = "toy", counts: dict[str, tuple[int, ...]] = COUNTS) -> None:
        self.counts = counts
        rows = [
            self._row(
                f"images/{split}_{level}_{index}.png",
                level,
                split,
                source,
                subject=f"s{split}{level}{index // 2}",
            )
            for split, numbers in counts.items()
            for level, number in enumerate(numbers)
            for index in range(number)
        ]
        run_dir = self._stage("prepare", "prepare", "toy", seconds=6.4)
        self._table(
            run_dir,
            rows,
            {
                "counts": {"collected": 349, "kept": len(rows)},
                "dropped": [["/home/ann/photos/x.png", "truncated"]],
            },
        )

    def gan(self, name: str, *, init_from: str | None = None, num_ticks: int = 40, done: bool = True) -> str:
        run_dir = self._stage(name, "train", name, seconds=412.0, config={"init_from": init_from}, done=done)
        tick = np.arange(1, num_ticks + 1)

        def walk(scale: float) -> np.ndarray:
            return self.rng.normal(0, scale, num_ticks).cumsum() * 0.3 + self.rng.normal(0, scale, num_ticks)

        curves = pd.DataFrame(
            {
                "images_seen": tick * 4000,
                "loss/G": 0.9 + 0.5 * np.exp(-tick / 8) + walk(0.05),
                "loss/D": 1.1 - 0.3 * np.exp(-tick / 6) + walk(0.03),
                "loss/r1": 0.02 * np.exp(-tick / 20) * np.exp(walk(0.1)),
                "loss/path_length": 0.004 * np.exp(walk(0.15)),
                "score/real": 0.6 * (1 - np.exp(-tick / 10)) + walk(0.04),
                "score/fake": -0.7 * (1 - np.exp(-tick / 10)) + walk(0.04),
                "ada/p": np.clip(0.012 * (tick - 8), 0, 0.4),
                "ada/r_t": np.clip(0.62 * (1 - np.exp(-tick / 7)) + walk(0.02), -1, 1),
                "speed/s_per_kimg": 2.5 + self.rng.normal(0, 0.05, num_ticks),
            }
        )
        curves.to_csv(run_dir / "metrics.csv", index=False)
        (run_dir / "metrics.json").write_text(json.dumps({"images_seen": int(tick[-1] * 4000)}))
        (run_dir / "samples").mkdir()
        self._grid(blur=0).save(run_dir / "samples" / "reals.png")
        for index in (0, num_ticks // 2, num_ticks):
            self._grid(blur=4 - 3 * index / num_ticks).save(run_dir / "samples" / f"tick_{index:04d}.png")
        return self.stages[name]["run"]

    def generate(self, name: str, *, level: int, gan_run: str, count: int = 12) -> None:
        run_dir = self._stage(name, "generate", name, seconds=9.0, config={"model": gan_run})
        rows = [
            self._row(
                f"images/seed{seed}.png",
                level,
                "train",
                "generated",
                subject=f"{name}-{seed}",
                parent=gan_run,
                seed=seed,
            )
            for seed in range(count)
        ]
        self._table(run_dir, rows, {})

    def grader(
        self,
        arm: str,
        *,
        skill: float,
        tested: bool = True,
        keeps_predictions: bool = True,
        inputs: tuple[str, ...] = ("prepare",),
        config: dict | None = None,
        lineage: dict | None = None,
    ) -> Path:
        """Another grader of that arm, which answers about a share `skill` rightly; the first one makes the arm."""
        name = f"grade_{sum(map(len, self.arms.values()))}"
        seed = len(self.arms.setdefault(arm, []))
        self.arms[arm].append(name)
        tables = [str(self.runs_dir / self.stages[stage]["run"]) for stage in inputs if stage in self.stages]
        config = {"seed": seed, "data": {"tables": tables}, **(config or {})}
        run_dir = self._stage(name, "train", name, seconds=63.2, config=config, done=tested)
        epoch = np.arange(15)
        rise = skill * (1 - np.exp(-epoch / 4)) + 0.25 * np.exp(-epoch / 4)
        curves = pd.DataFrame(
            {
                "epoch": epoch,
                "train/loss": 1.4 * np.exp(-epoch * skill / 9) + self.rng.normal(0, 0.02, 15),
                "val/loss": 1.2 * np.exp(-epoch * skill / 14) + 0.2 + self.rng.normal(0, 0.04, 15),
                "val/balanced_accuracy": np.clip(rise + self.rng.normal(0, 0.02, 15), 0, 1),
                "val/accuracy": np.clip(rise + 0.03, 0, 1),
            }
        )
        curves.to_csv(run_dir / "metrics.csv", index=False)
        if tested:
            predictions = self._predictions(skill)
            test = self._test_scores(predictions[predictions["split"] == "test"])
            metrics = {"test": test, "val": test, "classes": self.classes}
            if lineage is not None:
                metrics["lineage"] = lineage
            (run_dir / "metrics.json").write_text(json.dumps(metrics))
            if keeps_predictions:
                about = {"classes": self.classes, "decision": {"temperature": 1.0, "weights": None}, "bands": None}
                table = pa.Table.from_pandas(predictions, preserve_index=False)
                table = table.replace_schema_metadata({b"acne_lab": json.dumps(about)})
                parquet.write_table(table, run_dir / "predictions.parquet")
        return run_dir

    def write(self) -> Path:
        study_dir = self.runs_dir / "study" / "demo-0123456789abcdef"
        study_dir.mkdir(parents=True, exist_ok=True)
        about = {
            "name": "demo",
            "seed": 0,
            "seeds": self.seeds,
            "baseline": self.baseline,
            "question": self.question,
            "stages": self.stages,
            "arms": self.arms,
        }
        (study_dir / "study.json").write_text(json.dumps(about))
        return study_dir

    def _stage(
        self,
        name: str,
        job: str,
        run_name: str,
        *,
        seconds: float,
        config: dict | None = None,
        done: bool = True,
    ) -> Path:
        run = f"{job}/{run_name}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
        run_dir = self.runs_dir / run
        run_dir.mkdir(parents=True)
        config = {
            "seed": 0,
            "run_dir": str(run_dir),
            "data": {"root": "/home/ann/patients/photos"},
            **(config or {}),
        }
        (run_dir / "config.yaml").write_text(yaml.safe_dump(config))
        environment = {
            "python": "3.11.15",
            "torch": "2.14.1+cpu",
            "cpu": "AMD EPYC 7R13, 2 of 48 cores",
            "threads": 2,
            "code_version": "0.1.0 (commit 4f1c9e2, clean)",
            "executable": "/home/ann/venv/bin/python",
            "packages": {"numpy": "2.4.0", "timm": "1.0.24", "pytorch-lightning": "2.6.6"},
        }
        (run_dir / "environment.json").write_text(json.dumps(environment))
        if done:
            (run_dir / "DONE").touch()
        self.stages[name] = {
            "job": job,
            "run": run,
            "command": f"acne-lab {job} name={run_name} data.root=/home/ann/photos run_dir={run_dir}",
            "seconds": seconds,
            "reused": job == "prepare",
        }
        return run_dir

    def _row(
        self, file_name: str, level: int, split: str, source: str, subject: str, parent: str = "", **extra
    ) -> dict:
        return {
            "file_name": file_name,
            "severity": self.classes[level],
            "lesions": (3, 12, 34, 58)[level % 4],
            "subject": subject,
            "split": split,
            "source": source,
            "parent": parent,
            "sha256": hashlib.sha256(file_name.encode()).hexdigest(),
            **extra,
        }

    def _table(self, run_dir: Path, rows: list[dict], report: dict) -> None:
        (run_dir / "table" / "images").mkdir(parents=True)
        pd.DataFrame(rows).to_csv(run_dir / "table" / "metadata.csv", index=False)
        (run_dir / "table" / "table.json").write_text(json.dumps({"classes": self.classes, "report": report}))
        for row in rows:
            if row["split"] == "train":  # the report must not need, nor show, the others
                soft = 0.9 if row["source"] == "generated" else 0.0
                face(self.rng, row["lesions"], soft).save(run_dir / "table" / row["file_name"])

    def _grid(self, *, blur: float) -> Image.Image:
        grid = Image.new("RGB", (8 * 64, 4 * 64))
        for index in range(32):
            grid.paste(face(self.rng, (3, 12, 34, 58)[index // 8], blur), (index % 8 * 64, index // 8 * 64))
        return grid

    def _predictions(self, skill: float) -> pd.DataFrame:
        """Of validation and test images: a grade and some lesions above or below the truth, by the image, the person
        and the run; what is hard about an image is the same for every grader."""
        rows = [
            {
                "file_name": f"images/{split}_{level}_{index}.png",
                "subject": f"s{split}{level}{index // 2}",
                "split": split,
                "severity": self.classes[level],
                "source": "toy",
                "lesions": float((3, 12, 34, 58)[level % 4]),
                "camera": "phone" if level and index % 3 == 0 else "studio",
                "lesion_size": 0.01 + 0.0001 * (index % 17),
                "level": level,
            }
            for split in ("val", "test")
            for level, number in enumerate(self.counts[split][: len(self.classes)])
            for index in range(number)
        ]
        frame = pd.DataFrame(rows)
        hard = np.random.default_rng(1)
        of_image, of_person = hard.normal(size=len(frame)), dict(zip(frame["subject"], hard.normal(size=len(frame))))
        noise = 0.6 * of_image + 0.4 * frame["subject"].map(of_person) + 0.69 * self.rng.normal(size=len(frame))
        spread = 0.5 / stats.norm.ppf(0.5 + min(skill, 0.98) / 2)  # as many lie within half a grade of the truth
        seen = (frame.pop("level") + spread * noise).to_numpy()
        logits = -2.5 * (seen[:, None] - np.arange(len(self.classes))) ** 2
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        return frame.assign(
            **{f"p_{name}": p[:, i] for i, name in enumerate(self.classes)},
            count=np.nan,
            count_from_grade=p @ np.array([(3, 12, 34, 58)[level % 4] for level in range(len(self.classes))]),
        )

    def _test_scores(self, predictions: pd.DataFrame) -> dict:
        """By hand, what metrics.json says of the predictions."""
        answers = predictions[[f"p_{name}" for name in self.classes]].to_numpy().argmax(axis=1)
        truth = predictions["severity"].map({name: level for level, name in enumerate(self.classes)})
        matrix = np.zeros((len(self.classes), len(self.classes)), dtype=int)
        np.add.at(matrix, (truth, answers), 1)
        recall = matrix.diagonal() / matrix.sum(1)
        either = matrix.sum(0) + matrix.sum(1)
        f1 = 2 * matrix.diagonal()[either > 0] / either[either > 0]
        return {
            "accuracy": float(matrix.trace() / matrix.sum()),
            "balanced_accuracy": float(recall.mean()),
            "macro_f1": float(f1.mean()),
            "num_test": int(matrix.sum()),
            "recall": dict(zip(self.classes, recall.tolist())),
            "confusion": matrix.tolist(),
        }


def face(rng: np.random.Generator, lesions: int, blur: float) -> Image.Image:
    """A 64 px face: an ellipse of skin, eyes, a mouth, and as many red spots as lesions."""
    skin = tuple(int(value) for value in np.array([224, 178, 148]) * rng.uniform(0.62, 1.05))
    image = Image.new("RGB", (128, 128), tuple(int(value) for value in rng.integers(70, 150, 3)))
    draw = ImageDraw.Draw(image)
    draw.ellipse((22, 8, 106, 124), fill=skin)
    for x in (48, 80):
        draw.ellipse((x - 7, 48, x + 7, 55), fill=(245, 240, 235))
        draw.ellipse((x - 3, 48, x + 3, 55), fill=(50, 35, 30))
    draw.arc((46, 74, 82, 100), 25, 155, fill=(150, 70, 70), width=4)
    for x, y, radius in zip(rng.normal(64, 19, lesions), rng.normal(76, 20, lesions), rng.uniform(1.3, 3, lesions)):
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(190, 62, 58))
    return image.resize((64, 64), Image.Resampling.LANCZOS).filter(ImageFilter.GaussianBlur(blur))


def full_study(root: Path) -> StudyWriter:
    """A base GAN, one per severity, generated faces, four arms of which one has not finished."""
    writer = StudyWriter(root)
    writer.prepare()
    base = writer.gan("base", init_from="toy_faces_64.safetensors")
    generated = []
    for level, severity in enumerate(CLASSES):
        word = severity.replace(" ", "_")
        run = writer.gan(f"gan_{word}", init_from=base, num_ticks=12)
        generated.append(f"generate_{word}")
        writer.generate(generated[-1], level=level, gan_run=run)
    writer.grader("real", skill=0.62)
    writer.grader("real + generated", skill=0.68, inputs=("prepare", *generated))
    writer.grader("generated only", skill=0.34, inputs=tuple(generated))
    writer.grader("real, oversampled", skill=0.6, tested=False)
    return writer
