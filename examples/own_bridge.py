"""A bridge of one's own: Gaussian noise whose level is drawn anew for each caption. Any recipe takes it as "own_bridge.py:ManyLevels".

capdec train captions.txt --output mine --set 'bridges=[{"name": "examples/own_bridge.py:ManyLevels", "least": 0.3}]'
"""

import torch
import torch.nn.functional as F

from capdec.protocols import Condition, Supervision


class ManyLevels:
    supervision = Supervision(0)  # text only

    def __init__(self, dim: int, least: float = 0.3):
        self.dim, self.least = dim, least

    def fit(self, corpus, images=None):
        pass

    def from_text(self, condition: Condition, generator: torch.Generator) -> Condition:
        cosine = torch.empty(len(condition), 1, 1).uniform_(self.least, 1, generator=generator)  # (B, 1, 1)
        std = ((1 / cosine**2 - 1) / self.dim).sqrt()
        noise = torch.randn(condition.embeddings.shape, generator=generator) * std
        return condition.with_embeddings(F.normalize(condition.embeddings + noise, dim=-1))

    def from_image(self, condition: Condition, generator: torch.Generator) -> Condition:
        return condition

    def tensors(self):
        return {}

    def restore(self, tensors):
        pass
