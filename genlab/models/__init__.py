"""Networks by name. A network knows no loss, optimiser, device or file."""

from __future__ import annotations

from torch import nn

from genlab.models.cyclegan import ResnetGenerator
from genlab.models.dcgan import DcganDiscriminator, DcganGenerator
from genlab.models.mlp import MlpDiscriminator, MlpGenerator
from genlab.models.patchgan import PatchDiscriminator
from genlab.models.unet import UnetGenerator
from genlab.registry import Registry

MODELS: Registry[type[nn.Module]] = Registry("model")
MODELS.register("dcgan_generator")(DcganGenerator)
MODELS.register("dcgan_discriminator")(DcganDiscriminator)
MODELS.register("mlp_generator")(MlpGenerator)
MODELS.register("mlp_discriminator")(MlpDiscriminator)
MODELS.register("resnet_generator")(ResnetGenerator)
MODELS.register("unet_generator")(UnetGenerator)
MODELS.register("patch_discriminator")(PatchDiscriminator)
