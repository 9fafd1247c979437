"""torch.nn's modules on the lab's ops: the same arguments and state_dict keys, with the activation fused."""

from genlab.nn import init
from genlab.nn.batch_norm import BatchNormAct1d, BatchNormAct2d, ConditionalBatchNormAct2d, synchronize_batch_norm
from genlab.nn.conv import Conv1d, Conv2d, ConvTranspose2d
from genlab.nn.conv_chain import ConvChain
from genlab.nn.multihead_attention import MultiheadAttention
from genlab.nn.norm import InstanceNormAct2d, LayerNormAct
from genlab.nn.recurrent import GRU, LSTM, RNN

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "BatchNormAct1d",
    "BatchNormAct2d",
    "ConditionalBatchNormAct2d",
    "Conv1d",
    "Conv2d",
    "ConvChain",
    "ConvTranspose2d",
    "InstanceNormAct2d",
    "LayerNormAct",
    "MultiheadAttention",
    "init",
    "synchronize_batch_norm",
]
