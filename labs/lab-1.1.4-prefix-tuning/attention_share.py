"""How much attention a prefix takes from a text: a gate between two attentions.

Source: He et al. 2021, https://arxiv.org/abs/2110.04366.
"""

from __future__ import annotations

import torch
from torch import Tensor


# Exercise 5. A query's weights are a softmax over the scores of the text and of the prefix together. Which share of them goes to the
# prefix? With it, attention is (1 - share) * attention over the text + share * attention over the prefix (He et al.).
# Scores can be large: exponentials of them overflow, differences of their logsumexp do not.
def prefix_share(text_scores: Tensor, prefix_scores: Tensor) -> Tensor:
    """Scores of one query each, (..., seq) and (..., virtual) -> share, (...), from 0 to 1. A masked score is minus infinity."""
    # SOLUTION 5
    return torch.sigmoid(prefix_scores.logsumexp(dim=-1) - text_scores.logsumexp(dim=-1))  # (..., virtual), (..., seq) -> (...)
    # END SOLUTION
