"""Many heads at once are what each would be alone, and the choice among them is the one that is promised."""

import functools
import math

import pandas as pd
import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR

from acne_lab.grade import heads
from acne_lab.grade.probe import LOSS, SCORE, Features, _Heads, choose, probe, validated
from acne_lab.metrics.grading import grading_report

NUM_FEATURES, CLASSES = 6, ("mild", "moderate", "severe", "very_severe")
COUNTS = torch.tensor([3.0, 12, 30, 55])


def seen(num, seed):
    """Features that tell the grade, with noise; some lesions nobody has counted."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(num) % 4
    features = torch.randn(num, NUM_FEATURES, generator=rng) / 2
    features[:, 0] += labels
    features[:, 1] += labels == 2
    counts = COUNTS[labels].clone()
    counts[::5] = torch.nan
    return Features(features, labels, counts)


def order(seed, epoch):
    rng = torch.Generator().manual_seed(100 * seed + epoch)
    return torch.randperm(40, generator=rng).view(5, 8)


def falling(step):
    return 1 / (1 + step)


def probed(head=heads.SoftmaxHead, **arguments):
    given = {
        "lrs": (0.01, 0.1),
        "weight_decays": (0.0, 0.3),
        "seeds": (3, 4, 5),
        "order": order,
        "num_epochs": 3,
        "optimizer": functools.partial(torch.optim.AdamW, lr=1.0, weight_decay=0.5),
        "factor": falling,
        "class_weights": torch.tensor([1.0, 2.0, 0.5, 1.0]),
    }
    make_head = functools.partial(head, num_features=NUM_FEATURES, num_classes=4)
    return probe(make_head, seen(40, 0), seen(24, 1), **given | arguments)


def alone(make_head, *, lr, weight_decay, seed, num_epochs):
    """The plain reference: one head, one optimizer."""
    torch.manual_seed(seed)
    head, train = make_head(num_features=NUM_FEATURES, num_classes=4).train(), seen(40, 0)
    optimizer = torch.optim.AdamW(head.parameters(), lr=lr, weight_decay=weight_decay)
    schedule = LambdaLR(optimizer, falling)
    for epoch in range(num_epochs):
        for rows in order(seed, epoch):
            batch = train.of(rows)
            weights = torch.tensor([1.0, 2.0, 0.5, 1.0])
            loss = head.loss(head(batch.features), batch.labels, batch.counts, class_weights=weights)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return head


SMOOTHED = functools.partial(heads.SoftmaxHead, label_smoothing=0.1)
KINDS = (SMOOTHED, heads.FocalHead, heads.CoralHead, heads.CornHead, heads.LdlHead, heads.CountHead)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("head", KINDS, ids=lambda head: getattr(head, "__name__", "smoothed"))
def test_every_head_is_what_it_would_be_alone(head):
    found = probed(head)
    best = {name: found.chosen[name] for name in ("lr", "weight_decay", "seed")}
    expected = alone(head, **best, num_epochs=found.chosen["epoch"])
    assert found.weights.keys() == expected.state_dict().keys()
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(found.weights[name], tensor, rtol=1e-4, atol=1e-5)
    val = seen(24, 1)
    graded = expected.eval().graded(expected(val.features))
    report = grading_report(graded.probabilities.detach(), val.labels, CLASSES)
    assert found.chosen[SCORE] == pytest.approx(report["balanced_accuracy"], abs=1e-6)


def test_the_grid_is_whole_and_its_best_epochs_are_kept():
    found = probed()
    assert len(found.heads) == 2 * 2 * 3
    assert not found.heads.duplicated(["lr", "weight_decay", "seed"]).any()
    assert found.heads[SCORE].between(0, 1).all()
    assert found.curve["epoch"].tolist() == [1, 2, 3]
    assert found.curve[SCORE].max() == pytest.approx(found.chosen[SCORE])
    assert found.curve[SCORE].idxmax() + 1 == found.chosen["epoch"]  # of equals the first
    assert found.heads.groupby("lr")[LOSS].mean().idxmin() == 0.1  # it learns more than the other


def test_it_is_the_same_again():
    one, other = (probed(drop_rate=0.5) for _ in range(2))
    assert all(torch.equal(one.weights[name], other.weights[name]) for name in one.weights)
    pd.testing.assert_frame_equal(one.heads, other.heads)
    assert not probed().heads.equals(one.heads)


def test_settings_are_chosen_over_all_seeds_not_by_the_luckiest_head():
    rows = [(0.1, 0, 0, 0.9, 0.3), (0.1, 0, 1, 0.5, 0.3), (0.2, 0, 0, 0.8, 0.5), (0.2, 0, 1, 0.7, 0.4)]
    rows += [(0.3, 0, 0, 0.75, 0.2), (0.3, 0, 1, 0.75, 0.1)]  # as good as 0.2, and surer
    chosen = choose(pd.DataFrame(rows, columns=["lr", "weight_decay", "seed", SCORE, LOSS]))
    assert (chosen["lr"], chosen["seed"]) == (0.3, 1)


def test_validation_figures_are_those_of_a_grader():
    labels = torch.tensor([0, 0, 1, 3, 3, 3])  # nobody is severe
    probabilities = torch.rand(2, 3, 6, 4, generator=torch.Generator().manual_seed(0)).softmax(dim=-1)
    probabilities[1, 2, 0, 0] = torch.nan
    figures = validated(probabilities, labels)
    for i, j in ((0, 0), (0, 2), (1, 1)):
        report = grading_report(probabilities[i, j], labels, CLASSES)
        assert figures[SCORE][i, j] == pytest.approx(report["balanced_accuracy"])
        assert figures["val/accuracy"][i, j] == pytest.approx(report["accuracy"])
        log_p = probabilities[i, j][torch.arange(6), labels].log()
        assert figures[LOSS][i, j] == pytest.approx(-log_p.mean().item())
    assert figures[SCORE][1, 2] == -1


def test_heads_that_burst_are_not_chosen_and_all_of_them_are_an_error():
    given = {"weight_decays": (0.0,), "optimizer": functools.partial(torch.optim.SGD, lr=1.0), "factor": lambda _: 1.0}
    with pytest.raises(ValueError, match=r"lower probe\.lrs"):
        probed(**given, lrs=(math.inf,))
    assert probed(**given, lrs=(math.inf, 0.01)).chosen["lr"] == 0.01


def test_a_head_that_does_not_begin_with_a_linear_layer_is_refused():
    with pytest.raises(ValueError, match="begin with a layer `linear`"):
        _Heads(lambda: torch.nn.Flatten(), [(0.1, 0.0)], [0], drop_rate=0.0, class_weights=torch.ones(4))
