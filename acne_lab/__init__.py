"""acne_lab: generate, edit, grade and audit acne photographs, reproducibly."""

__version__ = "0.1.0"
