"""Algorithms by name, and the function that trains them."""

from __future__ import annotations

from genlab.registry import Registry
from genlab.trainers.autoencoder import AutoencoderTrainer
from genlab.trainers.base import Trainer
from genlab.trainers.bert_pretraining import BertPretrainingTrainer
from genlab.trainers.callbacks import Callback
from genlab.trainers.captioning import CaptioningTrainer
from genlab.trainers.cgan import CganTrainer
from genlab.trainers.classifier import ClassifierTrainer
from genlab.trainers.cyclegan import CycleGanTrainer
from genlab.trainers.data_spec import DataSpec
from genlab.trainers.dcgan import DcganTrainer
from genlab.trainers.encoder_classifier import EncoderClassifierTrainer
from genlab.trainers.forecaster import ForecasterTrainer
from genlab.trainers.goodfellow_gan import GoodfellowGanTrainer
from genlab.trainers.infogan import InfoGanTrainer
from genlab.trainers.language_model import LanguageModelTrainer
from genlab.trainers.pix2pix import Pix2PixTrainer
from genlab.trainers.progressive import ProgressiveTrainer
from genlab.trainers.segmentation import SegmentationTrainer
from genlab.trainers.sentence_classifier import SentenceClassifierTrainer
from genlab.trainers.seq2seq import Seq2SeqTrainer
from genlab.trainers.sgan import SganTrainer
from genlab.trainers.tagger import TaggerTrainer
from genlab.trainers.training import TrainResult, train
from genlab.trainers.vae import VaeTrainer
from genlab.trainers.wgan import WganGpTrainer, WganTrainer

ALGORITHMS: Registry[type[Trainer]] = Registry("algorithm")
ALGORITHMS.register("autoencoder")(AutoencoderTrainer)
ALGORITHMS.register("bert_pretraining")(BertPretrainingTrainer)
ALGORITHMS.register("captioning")(CaptioningTrainer)
ALGORITHMS.register("cgan")(CganTrainer)
ALGORITHMS.register("classifier")(ClassifierTrainer)
ALGORITHMS.register("cyclegan")(CycleGanTrainer)
ALGORITHMS.register("dcgan")(DcganTrainer)
ALGORITHMS.register("encoder_classifier")(EncoderClassifierTrainer)
ALGORITHMS.register("forecaster")(ForecasterTrainer)
ALGORITHMS.register("gan")(GoodfellowGanTrainer)
ALGORITHMS.register("infogan")(InfoGanTrainer)
ALGORITHMS.register("language_model")(LanguageModelTrainer)
ALGORITHMS.register("pix2pix")(Pix2PixTrainer)
ALGORITHMS.register("progressive")(ProgressiveTrainer)
ALGORITHMS.register("segmentation")(SegmentationTrainer)
ALGORITHMS.register("sentence_classifier")(SentenceClassifierTrainer)
ALGORITHMS.register("seq2seq")(Seq2SeqTrainer)
ALGORITHMS.register("sgan")(SganTrainer)
ALGORITHMS.register("tagger")(TaggerTrainer)
ALGORITHMS.register("vae")(VaeTrainer)
ALGORITHMS.register("wgan")(WganTrainer)
ALGORITHMS.register("wgan_gp")(WganGpTrainer)

__all__ = ["ALGORITHMS", "Callback", "DataSpec", "TrainResult", "Trainer", "train"]
