"""A pre-norm transformer encoder of two inputs, token ids and their mask, in plain torch."""

import torch
from torch import nn

# Lowers the score of padding to e**-20 of its weight. The usual 1e4 is exact in float, but in int8
# the scores share one scale with it: its step, 1e4 / 255, would leave all of them equal.
PADDING = 20.0


class Attention(nn.Module):
    """Multi-head self-attention that does not look at padding."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.output = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x, bias):
        """`(N, T, width)` and `(N, 1, 1, T)`, far below 0 at padding -> `(N, T, width)`."""
        query, key, value = (
            part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        scores = query @ key.transpose(2, 3) * query.shape[-1] ** -0.5
        mixed = (scores + bias).softmax(-1) @ value
        return self.output(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and feed-forward, each normalised before and added after."""

    def __init__(self, width, heads):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width)
        )
        self.dropout = nn.Dropout(0.1)

    def forward(self, x, bias):
        """`(N, T, width)` -> `(N, T, width)`."""
        x = x + self.dropout(self.attention(self.norm(x), bias))
        return x + self.dropout(self.feed_forward(x))


class TextClassifier(nn.Module):
    """The forward's parameters have the names of the data's inputs."""

    def __init__(self, vocabulary, length, num_classes, width, depth, heads):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(torch.empty(1, length, width))
        # Small, so that the word and its place weigh alike from the start.
        nn.init.normal_(self.embedding.weight, std=0.05)
        nn.init.normal_(self.positions, std=0.05)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.classify = nn.Linear(width, num_classes)

    def forward(self, tokens, mask):
        """Ids `(N, T)`, int64, and mask `(N, T)`, 1 for a word -> logits `(N, C)`."""
        x = self.embedding(tokens) + self.positions
        bias = (mask[:, None, None, :] - 1) * PADDING
        for block in self.blocks:
            x = block(x, bias)
        kept = mask.unsqueeze(-1)
        return self.classify((self.norm(x) * kept).sum(1) / kept.sum(1).clamp(min=1))
