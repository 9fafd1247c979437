"""WGAN (Arjovsky, Chintala and Bottou 2017, "Wasserstein GAN", algorithm 1) and WGAN-GP (Gulrajani et al. 2017,
"Improved Training of Wasserstein GANs", algorithm 1).

Symbols of the papers: f_w = critic, the network "discriminator"; g_theta = generator; n_critic =
gan.discriminator_steps; c = wgan.clip; lambda = gan.regularizers.gradient_penalty.weight; m = data.batch_size. The
critic's estimate of the distance, E[f(x)] - E[f(g(z))], is the curve "wasserstein" of the log; by another `gan.loss` it
is no distance, and stays "margin".
"""

from __future__ import annotations

from pydantic import Field, model_validator
from torch import nn

from genlab.config import OptimizerConfig, Section
from genlab.ema import EmaConfig
from genlab.manifold_entropy import last_layer
from genlab.regularizers import GradientPenaltyConfig, RegularizersConfig
from genlab.trainers.base import Batch, Metrics
from genlab.trainers.diagnosis import sample_values
from genlab.trainers.gan import GanTrainer
from genlab.trainers.gan_config import GanConfig, GanModelConfig, GanRunConfig
from genlab.trainers.update import mean_of_updates


class CriticScheduleConfig(Section):
    """How long and within which bounds the critic is trained."""

    clip: float | None = Field(None, gt=0, description="c: the critic's weights are kept in [-c, c]; null: not clipped")
    long_critic_steps: int = Field(100, ge=1, description="critic updates of a long generator step")
    long_first_steps: int = Field(0, ge=0, description="the first so many generator steps are long")
    long_every: int | None = Field(None, ge=1, description="each step number that this divides is long; null: none")


class WganScheduleConfig(CriticScheduleConfig):
    """Clipping as in the paper; the long steps are those of the authors' code."""

    clip: float | None = Field(0.01, gt=0, description="c: the critic's weights are kept in [-c, c]; null: not clipped")
    long_first_steps: int = Field(25, ge=0, description="the first so many generator steps are long")
    long_every: int | None = Field(500, ge=1, description="each step number that this divides is long; null: none")


class WganGameConfig(GanConfig):
    """The game with a critic that is trained close to its optimum before each step of the generator."""

    loss: str = Field("wasserstein", description="non_saturating, minimax, lsgan, hinge or wasserstein")
    discriminator_steps: int = Field(5, ge=1, description="n_critic: critic updates to one of the generator")
    ema: EmaConfig | None = Field(None, description="average of the generator; null: none")


class PenaltyConfig(RegularizersConfig):
    """What restrains the critic of WGAN-GP."""

    gradient_penalty: GradientPenaltyConfig | None = Field(default_factory=GradientPenaltyConfig)


class WganGpGameConfig(WganGameConfig):
    """The game of WGAN-GP."""

    regularizers: PenaltyConfig = Field(default_factory=PenaltyConfig)


class WganGpModelConfig(GanModelConfig):
    """Networks whose critic judges each sample on its own."""

    discriminator_batch_norm: bool = Field(False, description="false where a gradient penalty is taken per sample")


def _rmsprop() -> OptimizerConfig:
    return OptimizerConfig(name="rmsprop", lr=5e-5)


def _adam() -> OptimizerConfig:
    return OptimizerConfig(lr=1e-4, betas=(0.0, 0.9))


class WganConfig(GanRunConfig):
    """`algorithm: wgan`."""

    model: GanModelConfig = Field(default_factory=GanModelConfig)
    gan: WganGameConfig = Field(default_factory=WganGameConfig)
    wgan: WganScheduleConfig = Field(default_factory=WganScheduleConfig)
    generator_optimizer: OptimizerConfig = Field(default_factory=_rmsprop)
    discriminator_optimizer: OptimizerConfig = Field(default_factory=_rmsprop)


class WganGpConfig(GanRunConfig):
    """`algorithm: wgan_gp`."""

    model: WganGpModelConfig = Field(default_factory=WganGpModelConfig)
    gan: WganGpGameConfig = Field(default_factory=WganGpGameConfig)
    wgan: CriticScheduleConfig = Field(default_factory=CriticScheduleConfig)
    generator_optimizer: OptimizerConfig = Field(default_factory=_adam)
    discriminator_optimizer: OptimizerConfig = Field(default_factory=_adam)

    @model_validator(mode="after")
    def _critic_without_batch_statistics(self) -> WganGpConfig:
        family = self.model.discriminator or self.model.network
        keys = {"dcgan": "model.discriminator_batch_norm", "mlp": "model.mlp.discriminator_batch_norm"}
        mixes = {"dcgan": self.model.discriminator_batch_norm, "mlp": self.model.mlp.discriminator_batch_norm}
        if self.gan.regularizers.gradient_penalty is not None and mixes.get(family, False):
            raise ValueError(
                f"{keys[family]}: expected false, because a gradient penalty is of each sample alone and batch "
                "statistics mix them (Gulrajani et al. 2017, section 4), got true"
            )
        return self


class WganTrainer(GanTrainer):
    """Critic and generator of WGAN, with weight clipping."""

    config_class = WganConfig
    config: WganConfig | WganGpConfig
    data_kinds = ("images", "points")

    def build_networks(self) -> dict[str, nn.Module]:
        networks = super().build_networks()
        if self.config.gan.loss == "wasserstein" and self.config.gan.regularizers.drift is None:
            # A constant added to f cancels in the loss: as a parameter it would never be trained.
            last_layer(networks["discriminator"]).register_parameter("bias", None)
        return networks

    @property
    def batches_per_step(self) -> int:
        settings = self.config.wgan
        every = settings.long_every
        is_long = self.step < settings.long_first_steps or (every is not None and self.step % every == 0)
        return settings.long_critic_steps if is_long else self.config.gan.discriminator_steps

    @property
    def discriminator_updates(self) -> int:
        return self.critic_updates

    @property
    def critic_updates(self) -> int:
        """Updates of the critic before the present step."""
        settings, usual = self.config.wgan, self.config.gan.discriminator_steps
        first = min(self.step, settings.long_first_steps)
        every = settings.long_every
        later = 0 if every is None else max(0, -(-self.step // every) - -(-settings.long_first_steps // every))
        return self.step * usual + (first + later) * (settings.long_critic_steps - usual)

    def train_step(self, *batches: Batch) -> Metrics:
        updates = []
        for t, batch in enumerate(batches):
            x = sample_values(batch)
            fakes = self.generate(self.draw_noise(x.shape[0]), keep_graph=False)
            updates.append(self.update_discriminator(x, fakes, update_number=self.critic_updates + t))  # w <- clip(w)
        # The estimate of the distance is the best critic's, so the last one's; a lazy penalty is of whichever had it.
        metrics = {**mean_of_updates(updates), **updates[-1]}
        z = self.draw_noise(x.shape[0])
        metrics.update(self.update_generator(z))
        if self.config.gan.loss == "wasserstein":
            metrics["wasserstein"] = metrics.pop("margin")
        return metrics

    def weight_bound(self, name: str) -> float | None:
        """c: each update of the critic ends with w <- clip(w, -c, c), all its weights, those of normalisations too."""
        return self.config.wgan.clip if name == "discriminator" else None


class WganGpTrainer(WganTrainer):
    """Critic and generator of WGAN-GP: the same algorithm with a gradient penalty in the place of clipping."""

    config_class = WganGpConfig
    config: WganGpConfig
