"""Crosscoders with a parameterisation of their own, as a plugin's author writes one."""

import copy

import torch
from torch import nn

from crosscoders import Crosscoder, LatentGroup, Site, Wiring

SITES = (Site("m/a", 4), Site("m/b", 3))
WIRING = Wiring(sites=SITES, groups=(LatentGroup("all", 5, reads=("m/a", "m/b"), writes=("m/a", "m/b")),))


class Tied(Crosscoder):
    """The encoder is the transposed decoder times `gain`."""

    made = 0

    def __init__(self, wiring, gain):
        super().__init__(wiring)
        self.gain = nn.Parameter(torch.tensor(gain))
        self.names = [group.name for group in wiring.groups]

    def make_weights(self):
        type(self).made += 1
        self.rows = nn.ParameterDict({name: torch.zeros(5, 7) for name in self.names})
        assert float(self.gain.detach()) == 2.0

    def encoder_weight(self, index):
        return self.gain * self.rows[self.names[index]]

    def decoder_weight(self, index):
        return self.rows[self.names[index]]

    @torch.no_grad()
    def set_weights(self, index, W_enc, W_dec):
        self.rows[self.names[index]].copy_(W_dec)


def test_weights_are_made_once_when_every_attribute_of_the_subclass_exists():
    Tied.made = 0
    crosscoder = Tied(WIRING, 2.0)
    assert Tied.made == 1
    names = {name for name, _ in crosscoder.named_parameters()}
    assert names == {"gain", "rows.all", "b_enc_F", "b_dec_X"}
    crosscoder.set_weights(0, torch.zeros(5, 7), torch.ones(5, 7))
    again = copy.deepcopy(crosscoder)
    assert Tied.made == 1, "a copy keeps the weights"
    x_BX = torch.rand(3, 7)
    assert torch.equal(again(x_BX), crosscoder(x_BX))
    torch.testing.assert_close(crosscoder.pre_activations(x_BX), 2 * x_BX.sum(1, keepdim=True).expand(3, 5))


def test_a_subclass_of_a_subclass_makes_its_weights_once_too():
    class Doubled(Tied):
        def __init__(self, wiring):
            self.before = True
            super().__init__(wiring, 2.0)
            self.after = True

        def make_weights(self):
            assert self.before and self.after
            super().make_weights()

    Tied.made = Doubled.made = 0
    assert isinstance(Doubled(WIRING).rows, nn.ParameterDict) and Doubled.made == 1
