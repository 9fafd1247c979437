"""Vision Transformer (Dosovitskiy et al. 2021): a Transformer's encoder on the patches of a picture.

Parameters have torchvision's names.
"""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genlab.nn import Conv2d, LayerNormAct, MultiheadAttention

# name -> (patch, depth, width, heads, width of the MLP): table 1 of the paper; "tiny" and "small" as in Touvron et al.
# 2021, the last for pictures of 32 px as many reproductions on CIFAR-10 have it
VIT_SIZES: dict[str, tuple[int, int, int, int, int]] = {
    "tiny": (16, 12, 192, 3, 768),
    "small": (16, 12, 384, 6, 1536),
    "base": (16, 12, 768, 12, 3072),
    "large": (16, 24, 1024, 16, 4096),
    "cifar": (4, 6, 192, 3, 768),
}


class EncoderBlock(nn.Module):
    """Attention and MLP, each behind a layer normalisation and beside a shortcut (equations 2 and 3).

    Args:
        width: of a token.
        heads: of the attention.
        mlp_width: hidden units of the MLP.
        dropout: behind attention and both layers of the MLP.
    """

    def __init__(self, width: int, heads: int, mlp_width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.ln_1 = LayerNormAct(width, eps=1e-6)
        self.self_attention = MultiheadAttention(width, heads, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.ln_2 = LayerNormAct(width, eps=1e-6)
        self.mlp = nn.Sequential(
            nn.Linear(width, mlp_width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(mlp_width, width),
            nn.Dropout(dropout),
        )
        for layer in (self.mlp[0], self.mlp[3]):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.normal_(layer.bias, std=1e-6)

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, L, width) to the same shape."""
        normalised = self.ln_1(tokens)
        attended, _ = self.self_attention(normalised, normalised, normalised, need_weights=False)
        tokens = tokens + self.dropout(attended)
        return tokens + self.mlp(self.ln_2(tokens))

    def attention(self, tokens: Tensor) -> Tensor:
        """What each token attends to, (N, heads, L, L), rows that sum to 1."""
        normalised = self.ln_1(tokens)
        _, weights = self.self_attention(
            normalised, normalised, normalised, need_weights=True, average_attn_weights=False
        )
        assert weights is not None
        return weights


class TokenStack(nn.Module):
    """Learned 1-D positions, the blocks, and a last normalisation."""

    def __init__(self, length: int, depth: int, width: int, heads: int, mlp_width: int, dropout: float) -> None:
        super().__init__()
        self.pos_embedding = nn.Parameter(torch.empty(1, length, width).normal_(std=0.02))
        self.dropout = nn.Dropout(dropout)
        blocks = [EncoderBlock(width, heads, mlp_width, dropout) for _ in range(depth)]
        self.layers = nn.Sequential(OrderedDict((f"encoder_layer_{i}", block) for i, block in enumerate(blocks)))
        self.ln = LayerNormAct(width, eps=1e-6)


def resized_positions(embedding: Tensor, before: tuple[int, int], after: tuple[int, int]) -> Tensor:
    """Bicubic interpolation of positions between grids (section 3.2); the class token's stays.

    Args:
        embedding: (1, 1 + rows * columns, width).
        before, after: (rows, columns) of the grids.
    """
    if before == after:
        return embedding
    of_class, of_patches = embedding[:, :1], embedding[:, 1:]
    maps = of_patches.transpose(1, 2).unflatten(2, before)
    resized = F.interpolate(maps.float(), size=after, mode="bicubic", align_corners=False).to(embedding.dtype)
    return torch.cat([of_class, resized.flatten(2).transpose(1, 2)], dim=1)


class VisionTransformer(nn.Module):
    """Patches as tokens behind a class token, learned positions, a Transformer's encoder and a linear head.

    Pictures of another size than the network was built for are taken too, in whole patches: their positions are
    interpolated from the trained grid (section 3.2), patches keep their size and the sequence grows.

    Args:
        image_shape: (C, H, W), H and W multiples of `patch`.
        num_classes: outputs.
        patch: side of a patch in pixels.
        depth: blocks.
        width: of a token.
        heads: of each attention; divides `width`.
        mlp_width: hidden units of each MLP.
        dropout: behind the embedding and in each block.

    Example:
        >>> VisionTransformer((3, 32, 32), 10, *VIT_SIZES["cifar"])(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int = 1000,
        patch: int = 16,
        depth: int = 12,
        width: int = 768,
        heads: int = 12,
        mlp_width: int = 3072,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        channels, *sides = image_shape
        if any(side % patch or side < patch for side in sides):
            raise ValueError(
                f"ViT: expected sides that are multiples of the patch, {patch} px, got {sides[0]}x{sides[1]}"
            )
        if width % heads:
            raise ValueError(f"ViT: expected a width that {heads} heads divide, got {width}")
        self.patch, self.grid = patch, (sides[0] // patch, sides[1] // patch)
        self.conv_proj = Conv2d(channels, width, patch, stride=patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.encoder = TokenStack(1 + math.prod(self.grid), depth, width, heads, mlp_width, dropout)
        self.heads = nn.Sequential(OrderedDict(head=nn.Linear(width, num_classes)))
        nn.init.trunc_normal_(self.conv_proj.weight, std=math.sqrt(1 / (channels * patch**2)))
        nn.init.zeros_(self.conv_proj.bias)
        nn.init.zeros_(self.heads.head.weight)
        nn.init.zeros_(self.heads.head.bias)

    def positions(self, height: int, width: int) -> Tensor:
        """Position embeddings (1, 1 + rows * columns, width) for pictures of that many pixels.

        Raises:
            ValueError: a side that is no multiple of the patch.
        """
        if height % self.patch or width % self.patch or min(height, width) < self.patch:
            raise ValueError(f"ViT: expected sides that are multiples of {self.patch} px, got {height}x{width}")
        grid = (height // self.patch, width // self.patch)
        return resized_positions(self.encoder.pos_embedding, self.grid, grid)

    def fit_positions(self, embedding: Tensor) -> Tensor:
        """Position embeddings of a network trained on another size, interpolated to this one's grid.

        Args:
            embedding: (1, 1 + n * n, width), of square pictures; of any other length it is given back as it is.
        """
        side = math.isqrt(max(0, embedding.shape[1] - 1)) if embedding.dim() == 3 else 0
        if side == 0 or side * side != embedding.shape[1] - 1:
            return embedding
        return resized_positions(embedding, (side, side), self.grid)

    def tokens(self, images: Tensor) -> Tensor:
        """(N, C, H, W) to what the first block takes, (N, 1 + patches, width)."""
        patches = self.conv_proj(images).flatten(2).transpose(1, 2)
        whole = torch.cat([self.class_token.expand(len(images), -1, -1).to(patches.dtype), patches], dim=1)
        return self.encoder.dropout(whole + self.positions(*images.shape[2:]).to(whole.dtype))

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) to logits (N, num_classes)."""
        return self.heads(self.encoder.ln(self.encoder.layers(self.tokens(images)))[:, 0])

    def attention_maps(self, images: Tensor) -> list[Tensor]:
        """Weights of each block's attention, from the first to the last, each (N, heads, L, L) with L = 1 + patches."""
        tokens = self.tokens(images)
        found = []
        for block in self.encoder.layers:
            found.append(block.attention(tokens))
            tokens = block(tokens)
        return found

    def attention_rollout(self, images: Tensor) -> Tensor:
        """How much of each patch reaches the class token through all blocks, (N, rows, columns), sums to at most 1.

        Attention of the heads' mean with the shortcut, (A + I) / 2, multiplied over the blocks (Abnar and Zuidema
        2020), as in the paper's figure 6.
        """
        reached: Tensor | None = None
        for weights in self.attention_maps(images):
            mean = weights.mean(1)
            mixed = 0.5 * (mean + torch.eye(mean.shape[-1], device=mean.device, dtype=mean.dtype))
            reached = mixed if reached is None else mixed @ reached
        assert reached is not None
        rows, columns = images.shape[2] // self.patch, images.shape[3] // self.patch
        return reached[:, 0, 1:].unflatten(1, (rows, columns))
