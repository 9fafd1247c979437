"""DCGAN (Radford, Metz and Chintala 2016, "Unsupervised Representation Learning with Deep Convolutional GANs").

The box is algorithm 1 of Goodfellow et al. 2014 with k = gan.discriminator_steps and m = data.batch_size. As in the
authors' code, real and fake images pass the discriminator as separate batches (its batch statistics differ), and the
fake images of the last discriminator update serve the generator's update too.
"""

from __future__ import annotations

from pydantic import Field, model_validator

from genlab.models.dcgan import STAGES
from genlab.trainers.base import Batch, Metrics
from genlab.trainers.gan import GanTrainer
from genlab.trainers.gan_config import GanModelConfig, GanRunConfig
from genlab.trainers.update import mean_of_updates


class DcganConfig(GanRunConfig):
    """`algorithm: dcgan`."""

    model: GanModelConfig = Field(default_factory=GanModelConfig)

    @model_validator(mode="after")
    def _size_of_the_architecture(self) -> DcganConfig:
        height, width = self.data.height_width
        if self.model.network == "dcgan" and (height != width or height not in STAGES):
            sizes = ", ".join(map(str, STAGES))
            raise ValueError(f"data.image_size: expected one of {sizes} for dcgan, got {self.data.image_size}")
        return self


class DcganTrainer(GanTrainer):
    """Generator and discriminator of DCGAN, with any adversarial loss and regulariser of the lab."""

    config_class = DcganConfig
    config: DcganConfig

    def train_step(self, *batches: Batch) -> Metrics:
        updates = []
        for k, batch in enumerate(batches):
            x = batch["image"]
            z = self.draw_noise(x.shape[0])
            fakes = self.generate(z, keep_graph=k == len(batches) - 1)
            updates.append(self.update_discriminator(x, fakes, update_number=self.step * len(batches) + k))
        return {**mean_of_updates(updates), **self.update_generator(z, fakes)}
