"""Model adapter `waves`: a model that reads no text. Sample n of its data set is a mixture of sine waves.

Activations are all that it gives, which is all that training, saving and most analyses need.
"""

import torch
from attrs import field, frozen
from attrs.validators import ge

from crosscoders import SiteError


@frozen(kw_only=True)
class WavesConfig:
    width: int = field(default=16, validator=ge(2))
    """Number of places at which each sample is measured: the width of both points."""


class Waves:
    def __init__(self, options):
        self.options = options
        self.places_D = torch.linspace(0, 6.28, options.width)

    def describe(self):
        return {"adapter": "waves", "model": "waves", "revision": "1"}

    def points(self):
        return ("signal", "rectified")

    def width(self, point):
        if point not in self.points():
            raise SiteError(f"waves have no point '{point}'; there are {', '.join(self.points())}")
        return self.options.width

    def to(self, device):
        self.places_D = self.places_D.to(device)
        return self

    def activations(self, tokens, points):
        for point in points:
            self.width(point)
        frequency_BT1 = (tokens.ids % 5 + 1)[..., None]
        phase_BT1 = (tokens.ids % 7)[..., None]
        signal_BTD = (frequency_BT1 * self.places_D + phase_BT1).sin()
        found = {"signal": signal_BTD, "rectified": signal_BTD.relu()}
        return {point: found[point] for point in points}
