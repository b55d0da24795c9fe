"""Two models whose activations are six concepts on orthogonal directions, and their true dictionary."""

import torch

from crosscoders import Crosscoder, LatentGroup, ReluGate, Site, Study, TokenIds, Wiring
from crosscoders.activations import ActivationConfig, MaskConfig
from crosscoders.testing.fakes import MarkovModel


class Readout:
    """A model whose activations are looked up by token id and whose logits are linear in them."""

    def __init__(self, x_ND, readout_DV):
        self.x_ND, self.readout_DV = x_ND, readout_DV

    def points(self):
        return ("x",)

    def activations(self, tokens, points):
        return {"x": self.x_ND[tokens.ids]}

    def logits(self, tokens, edits=()):
        x_BTD = self.x_ND[tokens.ids]
        for edit in edits:
            x_BTD = edit.apply(x_BTD)
        return x_BTD @ self.readout_DV

    def has_chat_template(self):
        return False

    def token_texts(self, ids):
        return [f"<{i}>" for i in ids]

    def __getattr__(self, name):
        return getattr(MarkovModel(torch.zeros(2, 2), ("a", "b")), name)


class Rows:
    def __init__(self, count):
        self.count = count

    def documents(self, *, skip=0):
        for start in range(skip * 20, self.count, 20):
            yield TokenIds(tuple(range(start, start + 20)))


def pair(*, copy=False, rate=0.2, count=400):
    """Six concepts on orthogonal directions, the last two in b only unless it is a copy, and their true dictionary."""
    generator = torch.Generator().manual_seed(0)
    on = torch.rand(count, 6, generator=generator) < rate
    f_NC = torch.where(on, 1.0 + torch.rand(count, 6, generator=generator), torch.zeros(()))
    rows_CD = torch.linalg.qr(torch.randn(8, 8, generator=generator)).Q[:6]
    there_C = torch.tensor([1.0, 1, 1, 1, float(copy), float(copy)])
    readout_DV = torch.randn(8, count, generator=generator)
    models = {
        "a": Readout((f_NC * there_C) @ rows_CD, readout_DV),
        "b": Readout(f_NC @ rows_CD, readout_DV),
    }
    sites = (Site("a/x", 8), Site("b/x", 8))
    names = ("a/x", "b/x")
    crosscoder = Crosscoder(Wiring(sites=sites, groups=(LatentGroup("all", 6, reads=names, writes=names),)))
    crosscoder.gate = ReluGate()
    with torch.no_grad():
        crosscoder.W_enc[0].copy_(torch.cat([torch.zeros(6, 8), rows_CD], dim=1))
        crosscoder.W_dec[0].copy_(torch.cat([there_C[:, None] * rows_CD, rows_CD], dim=1))
    return study_of(crosscoder, models, count), f_NC, rows_CD


def study_of(crosscoder, models, count=400):
    """A study over the tokens that the models know, in rows of twenty."""
    masks = MaskConfig(max_norm_multiple=0.0)
    config = ActivationConfig(context_length=20, held_out_share=0.0, rows_per_forward=8, masks=masks)
    return Study(crosscoder, models, Rows(count), activations=config, num_tokens=count)
