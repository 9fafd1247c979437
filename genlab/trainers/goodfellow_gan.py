"""GAN (Goodfellow et al. 2014, "Generative Adversarial Networks"), algorithm 1.

Symbols: x = real, z = noise, G(z) = fake, k = gan.discriminator_steps, m = data.batch_size. gan.loss=minimax is the
zero-sum game of equation 1, non_saturating the generator's loss that section 3 and the authors' code train with.
"""

from __future__ import annotations

from pydantic import Field

from genlab.trainers.base import Batch, Metrics
from genlab.trainers.diagnosis import sample_values
from genlab.trainers.gan import GanTrainer
from genlab.trainers.gan_config import GanModelConfig, GanRunConfig
from genlab.trainers.update import mean_of_updates


class GoodfellowModelConfig(GanModelConfig):
    """`model` of `algorithm: gan`."""

    network: str = Field("mlp", description="family of generator and discriminator")


class GoodfellowGanConfig(GanRunConfig):
    """`algorithm: gan`."""

    model: GoodfellowModelConfig = Field(default_factory=GoodfellowModelConfig)


class GoodfellowGanTrainer(GanTrainer):
    """The first GAN: k updates of the discriminator, each on new data and noise, then one of the generator."""

    config_class = GoodfellowGanConfig
    config: GoodfellowGanConfig
    data_kinds = ("images", "points")

    def train_step(self, *batches: Batch) -> Metrics:
        updates = []
        for k, batch in enumerate(batches):
            x = sample_values(batch)
            fakes = self.generate(self.draw_noise(x.shape[0]), keep_graph=False)
            updates.append(self.update_discriminator(x, fakes, update_number=self.step * len(batches) + k))
        z = self.draw_noise(x.shape[0])
        return {**mean_of_updates(updates), **self.update_generator(z)}
