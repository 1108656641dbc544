import torch

from acne_lab.grade.mixup import mixup


def test_images_are_mixed_with_their_partners_by_one_share():
    torch.manual_seed(0)
    images = torch.arange(8.0).view(8, 1, 1, 1).expand(8, 3, 2, 2)
    shares = []
    for _ in range(50):
        mixed, partners, share = mixup(images, alpha=1.0)
        assert sorted(partners.tolist()) == list(range(8))
        torch.testing.assert_close(mixed[:, 0, 0, 0], share * torch.arange(8.0) + (1 - share) * partners)
        shares.append(share)
    assert 0 <= min(shares) < 0.1 < 0.9 < max(shares) <= 1  # uniform at alpha = 1


def test_a_small_alpha_hardly_mixes():
    torch.manual_seed(0)
    shares = torch.tensor([mixup(torch.zeros(2, 3, 1, 1), alpha=0.05)[2] for _ in range(200)])
    assert (torch.minimum(shares, 1 - shares) < 0.05).float().mean() > 0.7
