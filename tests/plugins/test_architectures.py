"""Architectures: conformance, and that the special cases are the general wiring."""

import pytest
import torch

from crosscoders import ArchitectureChoice, ConfigError, Crosscoder, Site
from crosscoders.initialise import initialise
from crosscoders.testing import ArchitectureSuite

A, B = Site("m/a", 6), Site("m/b", 4)


class TestAcausal(ArchitectureSuite):
    name = "acausal"
    options = {"num_latents": 12}


class TestSae(ArchitectureSuite):
    name = "sae"
    options = {"num_latents": 12}
    sites = (A,)


class TestTranscoder(ArchitectureSuite):
    name = "transcoder"
    options = {"num_latents": 12}
    sites = (A, B)


class TestSkipTranscoder(ArchitectureSuite):
    name = "transcoder"
    options = {"num_latents": 12, "skip": True}
    sites = (A, B)


def test_one_site_crosscoder_is_the_sae():
    """E3: over one site the crosscoder has the autoencoder's wiring and numbers."""
    made = []
    for name in ("acausal", "sae"):
        crosscoder = Crosscoder(ArchitectureChoice.of(name, num_latents=20).build((A,)))
        initialise(crosscoder, decoder_norm=1.0, same_across_sites=True, generator=torch.Generator().manual_seed(0))
        made.append(crosscoder)
    x_BX = torch.randn(30, 6)
    assert made[0].wiring == made[1].wiring
    assert torch.equal(made[0](x_BX), made[1](x_BX))


def test_sae_by_hand():
    """E3: against a plain autoencoder written out."""
    crosscoder = Crosscoder(ArchitectureChoice.of("sae", num_latents=20).build((A,)))
    initialise(crosscoder, decoder_norm=1.0, same_across_sites=True, generator=torch.Generator().manual_seed(0))
    crosscoder.b_dec_X.data.normal_()
    x_BX = torch.randn(30, 6)
    f_BF = torch.relu(x_BX @ crosscoder.W_enc[0].T + crosscoder.b_enc_F)
    torch.testing.assert_close(crosscoder(x_BX), f_BF @ crosscoder.W_dec[0] + crosscoder.b_dec_X)


def test_transcoder_reads_a_and_writes_b():
    """E3: the written site's activations do not matter for encoding, the read one's not for the target."""
    crosscoder = Crosscoder(ArchitectureChoice.of("transcoder", num_latents=20).build((A, B)))
    initialise(crosscoder, decoder_norm=1.0, same_across_sites=True, generator=torch.Generator().manual_seed(0))
    a_BD, b_BD = torch.randn(30, 6), torch.randn(30, 4)
    assert torch.equal(crosscoder.encode({"m/a": a_BD}).dense(), crosscoder.encode({"m/a": a_BD, "m/b": b_BD}).dense())
    assert crosscoder.target(torch.cat([a_BD, b_BD], 1)).equal(b_BD)
    assert set(crosscoder.split(crosscoder({"m/a": a_BD}))) == {"m/b"}


def test_wrong_number_of_sites_is_refused():
    with pytest.raises(ConfigError, match="one site, not 2"):
        ArchitectureChoice.of("sae").build((A, B))
    with pytest.raises(ConfigError, match="two sites"):
        ArchitectureChoice.of("transcoder").build((A,))
