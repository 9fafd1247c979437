"""Networks by name. A network knows no loss, optimiser, device or file."""

from __future__ import annotations

from torch import nn

from genlab.models.autoencoder import Autoencoder, CodeClassifier, Encoder
from genlab.models.bert import Bert, BertClassifier, BertPretraining
from genlab.models.captioning_encoder import ImageEncoder
from genlab.models.conditional import (
    ConditionalDcganDiscriminator,
    ConditionalDcganGenerator,
    ConditionalMlpDiscriminator,
    ConditionalMlpGenerator,
    ProjectionMlpDiscriminator,
)
from genlab.models.conditional_resnet import ConditionalResnetDiscriminator, ConditionalResnetGenerator
from genlab.models.context_net import ContextNet
from genlab.models.cyclegan import ResnetGenerator
from genlab.models.dcgan import DcganDiscriminator, DcganGenerator
from genlab.models.dense_classifier import DenseClassifier
from genlab.models.googlenet import GoogLeNet
from genlab.models.infogan import InfoGanDiscriminator, InfoGanGenerator
from genlab.models.lenet import LeNet5, SmallCnn
from genlab.models.mlp import MlpDiscriminator, MlpGenerator
from genlab.models.mobilenet import MobileNet, MobileNetV2
from genlab.models.patchgan import PatchDiscriminator
from genlab.models.progressive import ProgressiveDiscriminator, ProgressiveGenerator
from genlab.models.recurrent import RecurrentClassifier
from genlab.models.resnet import ResNet
from genlab.models.segmentation_unet import SegmentationUnet
from genlab.models.sgan import SganConvGenerator, SganDiscriminator, SganMlpGenerator
from genlab.models.transformer import TransformerClassifier
from genlab.models.unet import UnetGenerator
from genlab.models.vae import ConvDecoder, ConvEncoder, DenseDecoder, DenseEncoder
from genlab.models.vgg import AlexNet, Vgg
from genlab.models.vit import VisionTransformer
from genlab.models.wgan_gp_resnet import WganGpCritic, WganGpGenerator
from genlab.registry import Registry

MODELS: Registry[type[nn.Module]] = Registry("model")
MODELS.register("autoencoder")(Autoencoder)
MODELS.register("encoder")(Encoder)
MODELS.register("bert")(Bert)
MODELS.register("bert_classifier")(BertClassifier)
MODELS.register("bert_pretraining")(BertPretraining)
MODELS.register("code_classifier")(CodeClassifier)
MODELS.register("dcgan_generator")(DcganGenerator)
MODELS.register("dcgan_discriminator")(DcganDiscriminator)
MODELS.register("mlp_generator")(MlpGenerator)
MODELS.register("mlp_discriminator")(MlpDiscriminator)
MODELS.register("resnet_generator")(ResnetGenerator)
MODELS.register("unet_generator")(UnetGenerator)
MODELS.register("patch_discriminator")(PatchDiscriminator)
MODELS.register("conditional_dcgan_generator")(ConditionalDcganGenerator)
MODELS.register("conditional_dcgan_discriminator")(ConditionalDcganDiscriminator)
MODELS.register("conditional_mlp_generator")(ConditionalMlpGenerator)
MODELS.register("conditional_mlp_discriminator")(ConditionalMlpDiscriminator)
MODELS.register("conditional_resnet_generator")(ConditionalResnetGenerator)
MODELS.register("conditional_resnet_discriminator")(ConditionalResnetDiscriminator)
MODELS.register("infogan_generator")(InfoGanGenerator)
MODELS.register("infogan_discriminator")(InfoGanDiscriminator)
MODELS.register("vae_dense_encoder")(DenseEncoder)
MODELS.register("vae_dense_decoder")(DenseDecoder)
MODELS.register("vae_conv_encoder")(ConvEncoder)
MODELS.register("vae_conv_decoder")(ConvDecoder)
MODELS.register("wgan_gp_generator")(WganGpGenerator)
MODELS.register("wgan_gp_critic")(WganGpCritic)
MODELS.register("projection_mlp_discriminator")(ProjectionMlpDiscriminator)
MODELS.register("progressive_generator")(ProgressiveGenerator)
MODELS.register("progressive_discriminator")(ProgressiveDiscriminator)
MODELS.register("sgan_mlp_generator")(SganMlpGenerator)
MODELS.register("sgan_conv_generator")(SganConvGenerator)
MODELS.register("sgan_discriminator")(SganDiscriminator)
MODELS.register("lenet5")(LeNet5)
MODELS.register("small_cnn")(SmallCnn)
MODELS.register("dense_classifier")(DenseClassifier)
MODELS.register("alexnet")(AlexNet)
MODELS.register("vgg")(Vgg)
MODELS.register("googlenet")(GoogLeNet)
MODELS.register("resnet")(ResNet)
MODELS.register("mobilenet")(MobileNet)
MODELS.register("mobilenet_v2")(MobileNetV2)
MODELS.register("context")(ContextNet)
MODELS.register("vision_transformer")(VisionTransformer)
MODELS.register("recurrent_classifier")(RecurrentClassifier)
MODELS.register("image_encoder")(ImageEncoder)
MODELS.register("segmentation_unet")(SegmentationUnet)
MODELS.register("transformer_classifier")(TransformerClassifier)
