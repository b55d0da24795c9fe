"""Fidelity and decoder norms on the true dictionary of a planted pair, and where they must say no."""

import pytest
import torch

from crosscoders import analyse
from planted_pair import pair


def report_of(study, name):
    (report,) = analyse(study.crosscoder, [name], study=study)
    return report.data


def test_the_true_dictionary_loses_nothing_and_one_that_writes_nothing_is_worth_nothing():
    study, _, _ = pair()
    found = report_of(study, "fidelity")
    for site in ("a/x", "b/x"):
        assert found["explained_variance"][site] == pytest.approx(1.0, abs=1e-5)
        numbers = found["spliced"][site]
        assert numbers["ce_spliced"] == pytest.approx(numbers["ce_clean"], abs=1e-4)
        assert numbers["(ce_mean-ce_spliced)/(ce_mean-ce_clean)"] == pytest.approx(1.0, abs=1e-3)
        assert numbers["1-kl_spliced/kl_mean"] == pytest.approx(1.0, abs=1e-3)
    with torch.no_grad():
        study.crosscoder.W_dec[0].zero_()
    empty = report_of(study, "fidelity")
    for site in ("a/x", "b/x"):
        assert empty["explained_variance"][site] < 0
        numbers = empty["spliced"][site]
        assert numbers["ce_spliced"] == pytest.approx(numbers["ce_zero"], abs=1e-6)
        assert numbers["1-kl_spliced/kl_zero"] == pytest.approx(0.0, abs=1e-6)


def test_norms_call_only_what_is_only_in_one_and_nothing_in_a_copy():
    study, _, _ = pair()
    assert report_of(study, "decoder_norms")["class"] == ["shared"] * 4 + ["only b/x"] * 2
    copy, _, _ = pair(copy=True)
    assert report_of(copy, "decoder_norms")["class"] == ["shared"] * 6
