"""Every shipped config composes, builds and runs a step."""

import pytest
import torch
from PIL import Image
from timm.models import is_model_pretrained
from tiny import TINY_GAN, TINY_GRADER, TINY_REFINER, TOY, composed, tiny_weights

from acne_lab.build import CONF_DIR, build, divide
from acne_lab.edit.module import RefinerTraining
from acne_lab.gan.augment import Augment
from acne_lab.gan.module import StyleGAN2
from acne_lab.grade.finetune import build_optimizer
from acne_lab.grade.module import Grader
from acne_lab.jobs.generate import generate
from acne_lab.jobs.graders import load_grader
from acne_lab.jobs.study import expand, fill, in_order, stages_of
from acne_lab.jobs.train import train


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF_DIR / group).glob("*.yaml"))


ROOTS = sorted(path.stem for path in CONF_DIR.glob("*.yaml") if path.stem != "base")
GAN = ("experiment=gan_base",)
GRADER = ("experiment=grader",)
SMALL_BACKBONES = ("byobnet", "test_resnet", "test_vit")  # those that start from random weights


def test_every_group_is_covered_here():
    tested = {
        "data",
        "edit",
        "model",
        "augment",
        "mode",
        "stage",
        "backbone",
        "head",
        "protocol",
        "refiner",
        "trainer",
        "logger",
        "callbacks",
        "balance",
        "study",
        "experiment",
    }
    assert {path.name for path in CONF_DIR.iterdir() if path.is_dir()} == tested


@pytest.mark.parametrize("root", ROOTS)
def test_roots_compose(root):
    needed = {
        "generate": ("run=x",),
        "study": ("study=demo",),
        "train": GAN,
        "balance": ("table=x",),
        "evaluate": ("table=x",),
        "explain": ("run=x",),
    }.get(root, ())
    assert composed(root, *needed)["runs_dir"] == "runs"


@pytest.mark.parametrize("name", options("data"))
def test_data(name, tmp_path):
    given = (f"data.root={tmp_path}",) if name in ("folder", "acne04", "acnegan", "table") else ()
    config = composed("train", *GAN, f"data={name}", *given)
    if name == "acne04":  # an empty folder is not a release of ACNE04, and that is said at once
        with pytest.raises(ValueError, match=r"data\.root"):
            build(config["data"]["source"])
    elif name == "acnegan":
        with pytest.raises(ValueError, match=r"data\.download=true"):
            build(config["data"]["source"]).fingerprint()
    elif "source" in config["data"]:
        assert callable(build(config["data"]["source"]).fingerprint)
    for key in ("resolution", "fit", "num_workers", "cache_dir"):
        assert key in config["data"]


@pytest.mark.parametrize("name", options("model"))
def test_models_build_and_score(name):
    model = build(composed("train", *GAN, f"model={name}")["model"])
    assert isinstance(model, StyleGAN2)
    size = model.G.img_resolution
    assert model.D(model.G(torch.randn(2, model.G.z_dim))).shape == (2, 1)
    assert model.augment(torch.zeros(1, 3, size, size)).shape == (1, 3, size, size)


@pytest.mark.parametrize(
    ("resolution", "devices", "batch", "group", "lr"),
    [
        (64, 1, 32, 4, 0.0025),
        (128, 2, 64, 4, 0.0025),
        (256, 1, 16, 4, 0.0025),
        (256, 4, 64, 4, 0.0025),
        (256, 8, 64, 4, 0.0025),
        (512, 1, 8, 4, 0.0025),
        (512, "[0,1]", 16, 4, 0.0025),
        (1024, 1, 4, 4, 0.002),
        (1024, 8, 32, 4, 0.002),
        (2048, 1, 2, 2, 0.002),
        (256, 32, 64, 2, 0.0025),
        (256, 64, 64, 1, 0.0025),
    ],
)
@pytest.mark.parametrize("experiment", ["gan_base", "gan_severity"])
def test_auto_follows_resolution_and_devices(experiment, resolution, devices, batch, group, lr):
    """batch = max(min(gpus min(4096 / res, 32), 64), gpus), group = min(batch / gpus, 4); ticks divide into batches."""
    given = ("stage.severity=severe", "init_from=x") if experiment == "gan_severity" else ()
    words = (f"experiment={experiment}", *given, "model=auto", f"data.resolution={resolution}")
    config = composed("train", *words, f"trainer.devices={devices}")
    model = config["model"]
    assert (config["stage"]["batch_size"], model["D"]["mbstd_group_size"]) == (batch, group)
    assert model["optimizer"]["lr"] == lr
    assert model["r1_gamma"] is model["ema_kimg"] is None  # the module divides by the batch
    assert model["G"]["channel_base"] == (32768 if resolution >= 512 else 16384)
    assert config["trainer"]["limit_train_batches"] * batch == config["stage"]["tick_images"]


def test_a_batch_of_ones_own_wins_over_that_of_auto():
    config = composed(
        "train", *GAN, "model=auto", "data.resolution=256", "stage.batch_size=2", "stage.tick_images=3200"
    )
    assert (config["stage"]["batch_size"], config["model"]["D"]["mbstd_group_size"]) == (2, 2)
    both = composed("train", *GAN, "model=auto", "data.resolution=1024", "trainer=ddp", "trainer.num_nodes=2")
    assert both["stage"]["batch_size"] == 16
    assert composed("train", *GAN)["stage"]["batch_size"] == 16  # other models leave it to the stage
    with pytest.raises(ValueError, match=r"trainer\.devices=auto is no number"):
        composed("train", *GAN, "model=auto", "trainer.devices=auto")


@pytest.mark.parametrize("pipe", options("augment/pipe"))
def test_augmentation_pipes(pipe):
    """Each switches on what its name says, and runs."""
    blit, geom = {"xflip", "rotate90", "xint"}, {"scale", "rotate", "aniso", "xfrac"}
    color = {"brightness", "contrast", "lumaflip", "hue", "saturation"}
    letters = {"b": blit, "g": geom, "c": color, "f": {"imgfilter"}, "n": {"noise"}}
    expected = {"none": set(), "blit": blit, "geom": geom, "color": color, "filter": {"imgfilter"}}
    expected |= {"noise": {"noise"}, "cutout": {"cutout"}}
    for name in ("bg", "bgc", "bgcf", "bgcfn"):
        expected[name] = set().union(*(letters[letter] for letter in name))
    expected["bgcfnc"] = expected["bgcfn"] | {"cutout"}

    node = composed("train", *GAN, "augment=fixed", f"augment/pipe={pipe}", "model.augment.p=1")["model"]["augment"]
    assert {name for name, value in node.items() if value == 1} - {"p"} == expected[pipe]
    assert set(node) == {"_target_", *Augment.__init__.__kwdefaults__}  # every transform can be overridden
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(build(node)(images), images) == (pipe == "none")


POLICIES = {"ada": (0.0, 0.6, 7), "fixed": (0.2, None, 7), "none": (0.0, None, 0)}  # p, target, transforms


@pytest.mark.parametrize("name", options("augment"))
def test_augmentation_policies(name, toy_runs):
    config = composed("train", *GAN, *TOY, *TINY_GAN, f"augment={name}", f"runs_dir={toy_runs}", "seed=101")
    model, transforms = build(config["model"]), dict(config["model"]["augment"])
    p = transforms.pop("p")
    assert (p, model.ada_target, list(transforms.values()).count(1)) == POLICIES[name]
    moved = 16 / 500_000 if name == "ada" else 0.0  # at most, by the 16 images of this run
    assert train(config).metrics["ada_p"] == pytest.approx(p, abs=moved)


@pytest.mark.parametrize("name", options("backbone"))
def test_backbones_build_and_grade(name):
    """At the size that timm's data config names, on tensors without memory; the weights that are named exist."""
    config = composed("train", *GRADER, f"backbone={name}")["model"]
    assert is_model_pretrained(config["backbone"])
    assert (config["pretrained"] is False) == (name in SMALL_BACKBONES)
    with torch.device("meta"), torch.no_grad():
        model = build({**config, "pretrained": False}, classes=["a", "b"]).eval()
        assert isinstance(model, Grader)
        assert model.preprocess.input_size == (config["input_size"] or model.data_config["input_size"][-1])
        assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 2)


@pytest.mark.parametrize(
    "name",
    [name if name in SMALL_BACKBONES else pytest.param(name, marks=pytest.mark.slow) for name in options("backbone")],
)
def test_backbones_learn(name):
    """A step on images as small as the network lets them be: the loss reaches every weight."""
    config = composed("train", *GRADER, f"backbone={name}", "model.pretrained=false")
    torch.manual_seed(0)
    side = {"swin_tiny_patch4_window7_224": 224, "vit_small_patch14_dinov2": 112}.get(name, 96)
    model = build({**config["model"], "input_size": side, "drop_rate": 0.0}, classes=["a", "b"])
    optimizer = build_optimizer(model.optimizer, model.backbone, model.head, layer_decay=model.layer_decay)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    first, *_, last = weights
    before = first.clone(), last.clone()
    outputs = model(torch.randn(2, 3, side, side))
    loss = model.head.loss(outputs, torch.tensor([0, 1]), torch.zeros(2), class_weights=model.class_weights)
    loss.backward()
    optimizer.step()
    assert all(weight.grad.isfinite().all() for weight in weights)
    assert not torch.equal(first, before[0])
    assert not torch.equal(last, before[1])


PROTOCOLS = {  # backbone, head, epochs, batch, optimizer, learning rate
    "subject": ("test_byobnet", "SoftmaxHead", 15, 16, "AdamW", 0.003),
    "acnegan": ("inception_resnet_v2", "SoftmaxHead", 15, 16, "Adam", 0.0001),
    "ldl": ("resnet50", "LdlHead", 120, 32, "SGD", 0.001),
}


@pytest.mark.parametrize(("name", "own"), [("acnegan", "inception_resnet_v2"), ("ldl", "resnet50")])
def test_a_protocol_leaves_the_weights_to_the_backbone(name, own):
    offline = composed("train", *GRADER, f"protocol={name}", "backbone=tf_efficientnet_lite0")["model"]
    assert offline["pretrained"] == "package"
    model = composed("train", *GRADER, f"protocol={name}")["model"]
    assert model["pretrained"] is True and model["backbone"].startswith(own)


def test_a_study_can_say_where_weights_come_from():
    plans = [check_study("cnn_benchmark", *given) for given in ((), ("study.pretrained=package",))]
    said = [[o for o in p["stages"]["real_0"]["overrides"] if o.startswith("model.pretrained")] for p in plans]
    assert said == [[], ["model.pretrained=package"]]


@pytest.mark.parametrize("name", options("protocol"))
def test_protocols_are_what_they_say_and_run_a_step(name, toy_runs):
    words = (*GRADER, f"protocol={name}")
    config = composed("train", *words)
    model = config["model"]
    recipe = (config["trainer"]["max_epochs"], config["loader"]["batch_size"])
    optimizer = model["optimizer"]["_target_"].removeprefix("torch.optim.")
    head = model["head"]["_target_"].removeprefix("acne_lab.grade.heads.")
    found = (model["backbone"].split(".")[0], head, *recipe, optimizer, model["optimizer"]["lr"])
    assert found == PROTOCOLS[name]
    assert config["protocol"] == name
    small = (*TOY, *TINY_GRADER, "model.pretrained=false", "loader.batch_size=8", f"runs_dir={toy_runs}", "seed=102")
    run = train(composed("train", *words, *small))
    assert run.metrics["decision"]["weights"] is None
    assert (run.metrics["decision"]["temperature"] != 1) == (name == "subject")


@pytest.mark.parametrize("protocol", options("protocol"))
@pytest.mark.parametrize("head", options("head"))
def test_a_protocol_takes_every_head(head, protocol):
    config = composed("train", *GRADER, f"protocol={protocol}", f"head={head}", "backbone=test_resnet")
    build(config["model"], classes=["mild", "moderate", "severe", "very_severe"])


SIZES = {"cnn_benchmark": ("toy_benchmark", "photographs"), "acne04_balancing": ("ci", "full")}


@pytest.mark.parametrize(("study", "size"), [(study, size) for study, sizes in SIZES.items() for size in sizes])
def test_sets_are_shared_by_graders_of_every_seed(study, size):
    """What is not one for each seed is made with the same words, whatever the seed of the sweep's member."""
    words = (f"study={study}", f"study/size={size}", "study.sets_seed=0")
    first, second = (composed("study", *words, f"seed={seed}")["study"]["stages"] for seed in (0, 1))
    shared = {name for name in first if "{seed}" not in name}
    assert {"gan_{severity}", "edited_images", "generated_images"} <= shared
    assert {name: first[name] for name in shared} == {name: second[name] for name in shared}


@pytest.mark.parametrize("name", options("head"))
def test_heads_learn_and_grade(name, toy_runs):
    """Two epochs of each, and a network that can be taken from the run."""
    run = train(composed("train", *GRADER, *TOY, *TINY_GRADER, f"head={name}", f"runs_dir={toy_runs}", "seed=102"))
    assert run.metrics["test"]["num_test"] > 0
    grader, *_ = load_grader(run.path, toy_runs)
    assert type(grader.head).__name__ == run.config["model"]["head"]["_target_"].rsplit(".", 1)[1]


@pytest.mark.parametrize("name", options("balance"))
def test_ways_of_balancing(name):
    """Graders and `acne-lab balance` read them alike, and every one takes the common options, so that a sweep can."""
    needed = {"generated": "balance.run=x", "supplement": "balance.root=x", "severity_swap": "edit.gans={base: x}"}
    given = (needed[name],) if name in needed else ()
    given += (f"balance={name}", "balance.targets={severe: 5}", "balance.seed=3")
    config = composed("train", *GRADER, *given)
    node = config["balance"]
    assert (node["name"], node["seed"], node["targets"]["severe"]) == (name, 3, 5)
    assert node == composed("balance", "table=x", *given)["balance"]
    assert config["edit"]["name"] == ("severity_swap" if name == "severity_swap" else "overlay")
    assert config["loader"]["balanced"] == node["oversample"] == (name not in ("none", "class_weights"))
    assert config["model"]["class_weighted"] == node["class_weights"] == (name == "class_weights")


@pytest.mark.parametrize("name", options("refiner"))
def test_refiners_build_and_paint(name):
    config = composed("train", "experiment=refiner", f"refiner={name}")
    model, side = build(config["model"]), config["patches"]["side"]
    assert isinstance(model, RefinerTraining)
    photo, mask = torch.zeros(1, 3, side, side), torch.ones(1, 1, side, side)
    assert model.eval().G(photo, photo, mask, mask).shape == photo.shape
    assert model.D(photo)[0].shape[1] == 1
    assert model.G.conditioned == (name != "inpaint")


@pytest.mark.parametrize("name", options("mode"))
def test_modes_draw(name, tmp_path):
    """A table or a sheet of each, with all options as they are but the number of frames or steps."""
    weights = tiny_weights(tmp_path / "tiny.safetensors")
    run = f"{{a: '{weights}', b: '{weights}'}}" if name == "walk" else str(weights)
    small = {
        "table": ["num_images=4"],
        "video": ["mode.num_frames=2"],
        "project": [f"mode.file='{tmp_path / 'face.png'}'", "mode.num_steps=2"],
    }
    if name == "project":
        Image.new("RGB", (20, 30)).save(tmp_path / "face.png")
    config = composed("generate", f"run={run}", f"mode={name}", *small.get(name, ()), f"runs_dir={tmp_path}")
    made = generate(config)
    assert made.done
    assert (made.path / ("table/metadata.csv" if name == "table" else "sheet.png")).exists()
    assert made.path.name.startswith("generated-" if name == "table" else f"{name}-")


@pytest.mark.parametrize("name", options("logger"))
def test_loggers(name):
    logger = composed("train", *GAN, f"logger={name}")["logger"]
    assert logger is None or logger["_target_"].startswith("acne_lab.tracking.")


@pytest.mark.parametrize("name", options("study"))
def test_studies_name_jobs_that_compose(name):
    given = ("study.ffhq=x.pkl", "study.camera=phone") if name == "ffhq_hierarchy" else ()
    check_study(name, *given)


SIZES = {"ci": "acne04_balancing", "full": "acne04_balancing_swap"}  # the others are the benchmark's


@pytest.mark.parametrize(("size", "name"), [(size, SIZES.get(size, "cnn_benchmark")) for size in options("study/size")])
def test_sizes_of_studies(size, name):
    plan = check_study(name, f"study/size={size}")
    assert plan["seeds"] == ([0] if name == "cnn_benchmark" else [0, 1, 2, 3, 4])
    graders = [node for stage, node in plan["stages"].items() if stage.endswith("_0") and node["job"] == "train"]
    assert len(graders) == len(plan["arms"])
    budget = {tuple(o for o in node["overrides"] if "epoch" in o or "batch" in o) for node in graders}
    assert len(budget) == 1


def check_study(name: str, *given: str) -> dict:
    """Its stages, expanded, compose; its arms are stages. Returns the plan with these stages."""
    plan = composed("study", f"study={name}", *given)["study"]
    seeds = plan.get("seeds", ())[:1]  # the stages of another say the same
    stages = in_order(expand(plan["stages"], ("mild", "moderate", "severe", "very_severe"), seeds))
    for stage in stages.values():
        overrides = [fill(text, dict.fromkeys(["table", *stages], "x")) for text in stage["overrides"]]
        composed(
            stage["job"],
            *[text.replace("data='x'", "data=table") for text in overrides],
            *(("data.root=x",) if stage["job"] == "train" else ()),
        )
    assert all(stages_of(pattern, stages, seeds) for pattern in plan["arms"].values())
    return {**plan, "stages": stages}


@pytest.mark.parametrize("name", options("experiment"))
def test_experiments_run_a_step(name, toy_runs, tmp_path):
    few = (*TINY_GRADER, "loader.epoch_size=16", "model.pretrained=false")
    small = {
        "grader": TINY_GRADER,
        "cnn_benchmark": few,
        "probe": few,
        "toy_benchmark": few,
        "refiner": TINY_REFINER,
    }.get(name, TINY_GAN)
    given = {
        "gan_severity": ("stage.severity=severe", "init_from=null"),
        "gan_small_data": (
            "stage.severity=severe",
            "init_from=null",
            "callbacks.evaluation.num_images=8",
            "callbacks.evaluation.every_ticks=1",
        ),
        "gan_conditional": ("model.G.c_dim=4",),
    }.get(name, ())
    config = composed("train", f"experiment={name}", *TOY, *small, *given, f"runs_dir={toy_runs}", "seed=100")
    run = train(config)
    assert run.done
    assert (run.path / "metrics.csv").exists()


def test_cadences_that_do_not_divide_are_refused():
    assert divide(12, 4) == 3
    with pytest.raises(Exception, match="do not divide"):
        composed("train", *GAN, "stage.tick_images=1001")


def test_an_unknown_key_is_an_error():
    with pytest.raises(Exception, match="colour"):
        composed("train", *GAN, "model.colour=red")


def test_missing_values_are_named():
    with pytest.raises(ValueError, match=r"data\.root=\.\.\."):
        composed("prepare", "data=folder")
