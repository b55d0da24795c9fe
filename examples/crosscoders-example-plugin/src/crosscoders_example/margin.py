"""Gate `margin`: a latent is on where its score exceeds a share of the token's largest score."""

from attrs import field, frozen
from attrs.validators import ge, le

from crosscoders import Gate


@frozen(kw_only=True)
class MarginConfig:
    share: float = field(default=0.05, validator=[ge(0.0), le(1.0)])
    """The share of the largest score below which a latent is off."""


class Margin(Gate):
    name = "margin"

    def __init__(self, options):
        super().__init__()
        self.share = options.share

    def keep(self, f_BF, norm_F):
        score_BF = f_BF * norm_F
        return (f_BF > 0) & (score_BF >= self.share * score_BF.amax(dim=1, keepdim=True))

    def options(self):
        return {"share": self.share}
