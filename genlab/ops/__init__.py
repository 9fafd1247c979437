"""The ops of the lab: torch.nn.functional's names and arguments, with a choice of implementation."""

from genlab.ops.activation import ACTIVATIONS
from genlab.ops.batch_norm_act import batch_norm_act
from genlab.ops.conv1d import conv1d
from genlab.ops.conv2d import conv2d
from genlab.ops.conv_transpose2d import conv_transpose2d
from genlab.ops.cross_entropy import cross_entropy
from genlab.ops.gan_loss import gan_loss
from genlab.ops.gru import gru
from genlab.ops.implementation import (
    IMPLEMENTATIONS,
    OpRow,
    default_impl,
    describe,
    get_default_impl,
    set_default_impl,
)
from genlab.ops.instance_norm_act import instance_norm_act
from genlab.ops.layer_norm_act import layer_norm_act
from genlab.ops.lstm import lstm
from genlab.ops.norm_conv2d import ConvResult, InputNorm, norm_conv2d, norm_conv_transpose2d
from genlab.ops.reparametrize_kl import reparametrize_kl
from genlab.ops.rnn import rnn
from genlab.ops.scaled_dot_product_attention import scaled_dot_product_attention
from genlab.ops.word2vec_objectives import HierarchicalSoftmax, NegativeSampling, keep_probabilities
from genlab.ops.word2vec_step import Word2vecTotals, word2vec_step

__all__ = [
    "ACTIVATIONS",
    "IMPLEMENTATIONS",
    "ConvResult",
    "HierarchicalSoftmax",
    "InputNorm",
    "NegativeSampling",
    "OpRow",
    "Word2vecTotals",
    "batch_norm_act",
    "conv1d",
    "conv2d",
    "conv_transpose2d",
    "cross_entropy",
    "default_impl",
    "describe",
    "gan_loss",
    "get_default_impl",
    "gru",
    "instance_norm_act",
    "keep_probabilities",
    "layer_norm_act",
    "lstm",
    "norm_conv2d",
    "norm_conv_transpose2d",
    "rnn",
    "scaled_dot_product_attention",
    "reparametrize_kl",
    "set_default_impl",
    "word2vec_step",
]
