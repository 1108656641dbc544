"""The smallest data and networks with which every job runs, and configs as the command line composes them."""

from hydra import compose, initialize_config_dir

from acne_lab.build import CONF_DIR, resolved, table_overrides

# 80 faces of 32 px, 20 of each severity.
TOY = (
    "data.resolution=32",
    "data.num_workers=1",
    "data.source.photos_per_subject=2",
    "data.source.class_counts={mild: 20, moderate: 20, severe: 20, very_severe: 20}",
)
TINY_GAN = (
    "num_threads=1",  # sums depend on the number of threads, which is not in a run's key
    "model.G.channel_base=128",
    "model.G.channel_max=16",
    "model.G.z_dim=16",
    "model.G.w_dim=16",
    "model.G.num_half_res=0",
    "stage.batch_size=4",
    "stage.tick_images=8",
    "stage.num_images=16",
)
TINY_GRADER = (
    "model.backbone=test_resnet",
    "model.input_size=32",
    "trainer.max_epochs=2",
    "loader.batch_size=8",
)


def composed(root: str, *overrides: str) -> dict:
    """The resolved config of a verb with overrides, as the command line would make it."""
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return resolved(compose(root, overrides=table_overrides(list(overrides)), return_hydra_config=False))
