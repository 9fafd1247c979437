"""Networks by name. A network knows no loss, optimiser, device or file."""

from __future__ import annotations

from torch import nn

from genlab.models.dcgan import DcganDiscriminator, DcganGenerator
from genlab.models.mlp import MlpDiscriminator, MlpGenerator
from genlab.registry import Registry

MODELS: Registry[type[nn.Module]] = Registry("model")
MODELS.register("dcgan_generator")(DcganGenerator)
MODELS.register("dcgan_discriminator")(DcganDiscriminator)
MODELS.register("mlp_generator")(MlpGenerator)
MODELS.register("mlp_discriminator")(MlpDiscriminator)
