# SPDX-License-Identifier: GPL-3.0-or-later
"""What a fit does: one dataclass of loss weights and settings per stage, and the presets made of them."""
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class LossWeights:
    """Weights of GANFIT's energy (Gecer et al., CVPR 2019, Eq. 9 and Sec. 3.3). A weight of 0 switches a term off."""

    identity: float = 2.0
    """`L_id`: 1 - cosine between the identity embeddings of the photo and of the render (paper: 2)."""
    identity_random: float = 2.0
    """`L_id^`: the same for a second render under a random expression, camera and light (paper: 2)."""
    content: float = 50.0
    """`L_con`: distance of the identity network's inner activations (paper: 50)."""
    pixel: float = 20.0
    """`L_pix`: robust L1 inside the visible skin, encoded sRGB in [0, 1] (paper: 1, in other units). With less the
    identity network paints the likeness in colours of its own."""
    landmark: float = 20.0
    """`L_lan`: landmark network on photo and on render, mean distance in interocular distances.
    The paper's 0.001 weighs a sum over pixel coordinates; this one is free of the photo's size. Nine bench photos in
    two rounds: 1.08 mm instead of 1.11, 1.17 instead of 1.22 with 4 and `landmark_mesh` at 40."""
    landmark_mesh: float = 15.0
    """Distance of the projected mesh landmarks to the photo's, same unit: holds the mouth and the outline. With 8 (and
    `landmark` at 4) a broad smile closes."""
    shape: float = 0.3
    """`Reg(p_s)`: mean square of the identity coefficients, in standard deviations. Six bench photos, with
    `landmark_mesh` at 40: 1.06 mm with 3, 1.01 with 1, 0.99 with 0.3; the judge's similarity 0.734, 0.746, 0.753."""
    expression: float = 0.5
    """`Reg(p_e)`: mean square of the 52 ARKit coefficients, in 0..1."""
    expression_sum: float = 0.5
    """Mean of the coefficients, which are not negative: few of them explain a face, not a little of each (the lasso,
    Tibshirani 1996). Fifteen bench photos, none with an expression: 0.979 mm without, 0.975 with 0.2, 0.974 with 0.5,
    0.978 with 1, the frontal ones 1.003, 0.991, 0.982, 0.987, with sums of 3.1, 2.3, 1.8, 1.1; 0.5 again, with other
    rounding: 0.977 and 0.990. Ten smiling portraits: lips as near to their landmarks (1.4 % of the interocular
    distance), sums of 5.1 for 7.0."""
    latent: float = 0.15
    """Mean square of the texture latent (its prior is a standard normal)."""
    light: float = 0.05
    """`Reg(p_l)`: light is grey and as bright as a photographer would set it."""
    tone: float = 0.05
    """Skin has the brightness and hue of people's skin. With `light` it fixes the gauge in `albedo x light`: at equal
    weights each gets its share of what is unusual, see `losses.tone_prior`."""
    radiance: float = 10.0
    """Penalty on negative radiance of the spherical harmonics."""
    palette: float = 1.0
    """Colours of eyes, teeth, tongue and lashes stay near the usual ones, mean square over 0.1. With 0.08 the networks
    paint teeth blue or green and eyeballs pink. The brightness of eyeballs and teeth is nearly free, see
    `losses.palette_prior`: held, they glow in the shade of lids and lips."""
    tint: float = 1.0
    """Black-and-white photos only: the skin keeps the hue of its start, see `losses.tint`. Without, it drifts with the
    latent's brightness to orange."""
    camera: float = 0.02
    """Log-normal prior on the distance between camera and head."""
    pins: float = 8.0
    """Sum over a person's own pins of their distance in interocular distances: each outweighs all other landmarks."""


@dataclass(frozen=True)
class LearningRates:
    """Adam step sizes per parameter group (paper: 0.01 for all). Units differ: see each line."""

    identity: float = 0.01
    """standard deviations. With 0.04 and a weak prior the identity terms bend the face away from the landmarks: one
    bench scan went from 0.93 mm after alignment to 1.46 mm; with 0.01 and the prior's weight at 3 to 0.99 mm, and two
    other heads improve on their alignment (1.54 to 1.35 mm, 1.44 to 1.22 mm)."""
    expression: float = 0.01
    """ARKit coefficient, 0..1"""
    latent: float = 0.06
    """standard deviations"""
    rotation: float = 0.004
    """radians"""
    position: float = 0.004
    """interocular distances across the picture, log of scale, log of distance"""
    light: float = 0.02
    """radiance"""
    palette: float = 0.01
    """sRGB 0..1"""


@dataclass(frozen=True)
class StageConfig:
    """One stage of gradient descent with the full energy."""

    iterations: int
    """number of Adam steps"""
    crop_size: int
    """side of the square crop of the photo that is rendered and compared, pixels"""
    texture_size: int
    """side of the generator's map in this stage, texels"""
    weights: LossWeights = field(default_factory=LossWeights)
    rates: LearningRates = field(default_factory=LearningRates)
    final_rate: float = 0.1
    """the step sizes fall to this share of themselves over the stage (cosine)"""


@dataclass(frozen=True)
class FitConfig:
    """Alignment from landmarks, then the stages of the full energy in order."""

    align_steps: int
    """Gauss-Newton steps of the landmark alignment"""
    stages: tuple[StageConfig, ...]
    albedo_size: int
    """side of the final skin maps, texels, see `backend.refine`"""

    @property
    def iterations(self) -> int:
        """Total number of Adam steps."""
        return sum(stage.iterations for stage in self.stages)

    def with_weights(self, **changes: float) -> "FitConfig":
        """A copy in which every stage has these loss weights changed."""
        return replace(self, stages=tuple(replace(s, weights=replace(s.weights, **changes)) for s in self.stages))

    def with_rates(self, **changes: float) -> "FitConfig":
        """A copy in which every stage has these step sizes changed; a group with the rate 0 keeps its values."""
        return replace(self, stages=tuple(replace(s, rates=replace(s.rates, **changes)) for s in self.stages))

    def with_iterations(self, total: int) -> "FitConfig":
        """A copy whose stages share `total` iterations in the same proportions (at least one each)."""
        share = total / max(self.iterations, 1)
        return replace(self, stages=tuple(replace(s, iterations=max(1, round(s.iterations * share)))
                                          for s in self.stages))


PRESETS: dict[str, FitConfig] = {
    "draft": FitConfig(12, (StageConfig(40, 192, 128),), 1024),
    "standard": FitConfig(20, (StageConfig(90, 192, 128), StageConfig(70, 256, 256)), 1024),
    "best": FitConfig(25, (StageConfig(150, 256, 256), StageConfig(250, 384, 512)), 2048),
}
