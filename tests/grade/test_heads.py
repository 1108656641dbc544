import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from acne_lab.grade.heads import HEADS, CoralHead, CornHead, CountHead, FocalHead, LdlHead, SoftmaxHead, built, plain

NAN = float("nan")
FACES = torch.tensor([2.0, 12.0, 35.0, 58.0]).repeat_interleave(8)  # counts in the middle of their bands
GRADES = torch.arange(4).repeat_interleave(8)
KNOW_COUNTS = {"LdlHead", "CountHead"}


def make(name, num_features=6, **arguments):
    torch.manual_seed(0)
    return HEADS[name](num_features=num_features, num_classes=4, **arguments)


def features_of(counts):
    """Eight noisy features, one of which tells the count."""
    features = torch.randn(len(counts), 6, generator=torch.Generator().manual_seed(0))
    features[:, 0] = counts.sqrt() / 4 - 1
    return features


@pytest.mark.parametrize("name", HEADS)
def test_every_head_learns(name):
    """From the same features: the right grades in the end, and counts where it knows of them."""
    head, features = make(name), features_of(FACES)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.1)
    for _ in range(150):
        loss = head.loss(head(features), GRADES, FACES, class_weights=torch.ones(4))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    graded = head.eval().graded(head(features))
    assert (graded.probabilities.argmax(dim=1) == GRADES).all()
    assert head.uses_counts == (name in KNOW_COUNTS)
    if head.uses_counts:
        assert (graded.counts - FACES).abs().mean() < 1.5
    else:
        assert graded.counts is None


@pytest.mark.parametrize("name", HEADS)
@settings(max_examples=25)
@given(seed=st.integers(0, 1000), scale=st.sampled_from([0.1, 1.0, 100.0]))
def test_probabilities_are_probabilities(name, seed, scale):
    head = make(name)
    num_outputs = head(torch.zeros(1, 6)).shape[1]
    outputs = scale * torch.randn(5, num_outputs, generator=torch.Generator().manual_seed(seed))
    graded = head.graded(outputs.half())
    assert graded.probabilities.shape == (5, 4)
    assert graded.probabilities.dtype == torch.float32
    assert (graded.probabilities >= 0).all()
    assert torch.allclose(graded.probabilities.sum(dim=1), torch.ones(5), atol=1e-5)
    assert graded.counts is None or (graded.counts >= 0).all()


@pytest.mark.parametrize("name", HEADS)
def test_loss_takes_uncounted_images_and_weights(name):
    head, features = make(name), features_of(FACES)
    counts = FACES.clone()
    counts[::2] = NAN
    for known in (counts, torch.full_like(counts, NAN)):
        head.zero_grad()
        loss = head.loss(head(features), GRADES, known, class_weights=torch.tensor([1.0, 2.0, 3.0, 4.0]))
        loss.backward()
        assert loss.shape == ()
        assert loss > 0
        assert all(parameter.grad.isfinite().all() for parameter in head.parameters())
    assert all(buffer.isfinite().all() for buffer in head.buffers())


@pytest.mark.parametrize("name", HEADS)
def test_an_answer_that_is_always_the_same_is_an_answer(name):
    """However sure of it: finite, and the same grade for all."""
    head = make(name).eval()
    outputs = head(torch.zeros(3, 6)).new_full((3, head(torch.zeros(1, 6)).shape[1]), 1e4)
    probabilities = head.graded(outputs).probabilities
    assert probabilities.isfinite().all()
    assert (probabilities == probabilities[0]).all()


@pytest.mark.parametrize("name", ["CoralHead", "CornHead"])
def test_ordinal_heads_are_sure_of_the_ends(name):
    head = make(name)
    probabilities = head.graded(torch.tensor([[-50.0] * 3, [50.0] * 3])).probabilities
    np.testing.assert_allclose(probabilities, [[1, 0, 0, 0], [0, 0, 0, 1]], atol=1e-6)


def test_coral_is_one_scale_and_starts_undecided():
    head = make("CoralHead")
    assert torch.allclose(head.graded(head(torch.zeros(1, 6))).probabilities, torch.full((1, 4), 0.25))
    differences = head(torch.randn(5, 6)).diff(dim=1)
    assert torch.allclose(differences, differences[:1].expand(5, -1), atol=1e-5)
    assert sum(parameter.numel() for parameter in head.parameters()) == 6 + 3


def test_coral_by_hand_in_and_out_of_order():
    head = make("CoralHead")
    logit = {p: math.log(p / (1 - p)) for p in (0.9, 0.5, 0.2, 0.6)}
    outputs = torch.tensor([[logit[0.9], logit[0.5], logit[0.2]], [logit[0.9], logit[0.5], logit[0.6]]])
    expected = [[0.1, 0.4, 0.3, 0.2], [0.1, 0.4, 0.0, 0.5]]
    np.testing.assert_allclose(head.graded(outputs).probabilities, expected, atol=1e-6)


def test_corn_by_hand():
    outputs = torch.tensor([[math.log(9), 0.0, math.log(3)]])  # 9/10; half of these; three quarters of these
    expected = [[0.1, 0.45, 0.45 / 4, 0.45 * 3 / 4]]
    np.testing.assert_allclose(make("CornHead").graded(outputs).probabilities, expected, atol=1e-6)


def test_ldl_reads_the_grade_off_both_and_the_likeliest_count():
    grades, counts = torch.zeros(1, 4), torch.full((1, 65), -20.0)
    counts[0, 6 - 1], counts[0, 30 - 1] = math.log(3), 0.0  # three quarters say 6, and one quarter 30
    graded = make("LdlHead").graded(torch.cat([grades, counts], dim=1))
    np.testing.assert_allclose(graded.probabilities, [[1 / 8, 1 / 2, 1 / 4, 1 / 8]], atol=1e-5)
    assert graded.counts.tolist() == [6.0]


def test_count_reads_the_grade_off_the_root():
    head = make("CountHead").eval()
    head.mean_square.fill_(0.25)
    graded = head.graded(torch.tensor([[4.0], [-1.0]]))
    assert graded.counts.tolist() == [16.0, 0.0]

    def below(count):
        return (1 + math.erf((math.sqrt(count) - 4) / 0.5 / math.sqrt(2))) / 2

    expected = np.diff([0, below(5.5), below(20.5), below(50.5), 1])
    np.testing.assert_allclose(graded.probabilities[0], expected, atol=1e-6)
    assert graded.probabilities[1, 0].item() == pytest.approx(1)


def test_the_spread_is_that_of_the_residuals():
    head = make("CountHead")

    def show(*residuals, counts=(16.0, 16.0)):
        outputs = torch.tensor([[4 + residual] for residual in residuals])
        head.loss(outputs, torch.ones(len(residuals), dtype=torch.int64), torch.tensor(counts), class_weights=None)
        return head.mean_square.item()

    assert show(1.0, -3.0) == 5  # the value it starts with is forgotten at once
    assert show(1.0, 1.0) == 3  # the mean of 5 and 1
    assert show(2.0, 9.0, counts=(16.0, NAN)) == pytest.approx(10 / 3)
    assert show(9.0, 9.0, counts=(NAN, NAN)) == pytest.approx(10 / 3)
    assert head.num_batches == 3
    for _ in range(1200):
        show(0.5, -0.5)
    assert head.mean_square.item() == pytest.approx(0.25, rel=1e-3)
    head.eval()
    show(5.0, 5.0)
    assert head.mean_square.item() == pytest.approx(0.25, rel=1e-3)
    assert set(head.state_dict()) == {"linear.weight", "linear.bias", "mean_square", "num_batches"}


def test_a_perfect_fit_leaves_room_for_whole_numbers():
    head = make("CountHead").eval()
    head.mean_square.zero_()
    assert head.graded(torch.tensor([[math.sqrt(5.5)]])).probabilities[0].tolist() == pytest.approx([0.5, 0.5, 0, 0])


@pytest.mark.parametrize("head", [CoralHead, CornHead])
def test_order_needs_two_grades(head):
    assert head(num_features=3, num_classes=2)(torch.zeros(1, 3)).shape == (1, 1)
    with pytest.raises(ValueError, match="give it two or more"):
        head(num_features=3, num_classes=1)


@pytest.mark.parametrize("head", [LdlHead, CountHead])
def test_counts_need_hayashis_grades(head):
    with pytest.raises(ValueError, match=r"the data has 3 classes: choose head=softmax, focal, coral or corn"):
        head(num_features=3, num_classes=3)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (partial(SoftmaxHead, label_smoothing=1.0), "label_smoothing must be"),
        (partial(FocalHead, gamma=-1), "gamma of the focal loss"),
        (partial(LdlHead, sigma=0), "sigma must be above 0"),
        (partial(LdlHead, grade_share=1.2), r"grade_share in 0\.\.1"),
    ],
)
def test_impossible_arguments(head, message):
    with pytest.raises(ValueError, match=message):
        head(num_features=3, num_classes=4)


def test_a_head_can_be_described_and_made_again():
    description = plain(partial(LdlHead, sigma=2.0))
    assert description == {"name": "LdlHead", "sigma": 2.0}
    head = built(description)(num_features=3, num_classes=4)
    assert isinstance(head, LdlHead)
    assert head.sigma == 2
    with pytest.raises(ValueError, match="a head system, which is none of SoftmaxHead"):
        built({"name": "system", "command": "echo"})
