"""Algorithms by name, and the function that trains them."""

from __future__ import annotations

from genlab.registry import Registry
from genlab.trainers.autoencoder import AutoencoderTrainer
from genlab.trainers.base import Trainer
from genlab.trainers.callbacks import Callback
from genlab.trainers.cyclegan import CycleGanTrainer
from genlab.trainers.data_spec import DataSpec
from genlab.trainers.dcgan import DcganTrainer
from genlab.trainers.encoder_classifier import EncoderClassifierTrainer
from genlab.trainers.pix2pix import Pix2PixTrainer
from genlab.trainers.sgan import SganTrainer
from genlab.trainers.training import TrainResult, train
from genlab.trainers.vae import VaeTrainer

ALGORITHMS: Registry[type[Trainer]] = Registry("algorithm")
ALGORITHMS.register("autoencoder")(AutoencoderTrainer)
ALGORITHMS.register("cyclegan")(CycleGanTrainer)
ALGORITHMS.register("dcgan")(DcganTrainer)
ALGORITHMS.register("encoder_classifier")(EncoderClassifierTrainer)
ALGORITHMS.register("pix2pix")(Pix2PixTrainer)
ALGORITHMS.register("sgan")(SganTrainer)
ALGORITHMS.register("vae")(VaeTrainer)

__all__ = ["ALGORITHMS", "Callback", "DataSpec", "TrainResult", "Trainer", "train"]
