"""What turns a backbone's features into class logits."""

from torch import Tensor, nn


class LinearHead(nn.Module):
    """Dropout and one linear layer: features [B, F] -> logits [B, C].

    Args:
        num_features: F.
        num_classes: C.
        drop_rate: probability in [0, 1) of dropping a feature while training.
    """

    def __init__(
        self,
        *,
        num_features: int,
        num_classes: int,
        drop_rate: float = 0.0,
    ):
        super().__init__()
        self.dropout = nn.Dropout(drop_rate)
        self.linear = nn.Linear(num_features, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        return self.linear(self.dropout(features))
