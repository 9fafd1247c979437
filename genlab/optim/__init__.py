"""torch.optim's optimisers on one multi-tensor kernel: the same arguments, groups, errors and state_dict.

`step` takes what else is done with gradients and weights at that moment, in the same pass over memory: see
`genlab.optim.fused.FusedStep.step`.
"""

from genlab.optim.adam import Adam, AdamW
from genlab.optim.fused import FusedStep, WeightAverage
from genlab.optim.rmsprop import RMSprop
from genlab.optim.sgd import SGD

__all__ = ["SGD", "Adam", "AdamW", "FusedStep", "RMSprop", "WeightAverage"]
