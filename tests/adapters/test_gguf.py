"""Models from GGUF files: the same model as from its folder, but for the rounding of the file."""

import shutil
import sys

import pytest
import torch

from crosscoders import Chat, ConfigError, Message, ModelChoice, Text
from crosscoders.testing import ModelAdapterSuite
from crosscoders_adapters.foreign import TINY_PAIR
from gguf_file import write_gguf

ROWS = ModelAdapterSuite()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    pytest.importorskip("gguf", reason="the package gguf is not installed")
    place = tmp_path_factory.mktemp("gguf")
    write_gguf(TINY_PAIR / "chat", place / "deep" / "exact.gguf")
    write_gguf(TINY_PAIR / "chat", place / "deep" / "rounded.gguf", eight_bits=True)
    return place


def build(folder, file="exact.gguf", **options):
    return ModelChoice.of("transformers", model=str(folder), subfolder="deep", gguf_file=file, **options).build()


class TestGguf(ModelAdapterSuite):
    tolerance = 2e-3

    @pytest.fixture(scope="class")
    def adapter(self, folder):
        return build(folder)

    def test_it_is_the_model_of_the_folder(self, adapter, folder):
        plain = ModelChoice.of("transformers", model="tiny-pair/chat").build()
        rows = self._rows(adapter)
        torch.testing.assert_close(adapter.logits(rows), plain.logits(rows), rtol=1e-4, atol=1e-4)
        for document in (Text("Return the sum of a list."), Chat((Message("user", "Who are you?"),))):
            assert adapter.tokenize(document).ids == plain.tokenize(document).ids
        assert adapter.describe() | {"model": ""} == {
            **plain.describe(),
            "model": "",
            "gguf_file": "exact.gguf",
            "subfolder": "deep",
        }

    def test_rounded_weights_are_read_as_they_are_rounded(self, adapter, folder):
        rows = self._rows(adapter)
        exact, rounded = adapter.logits(rows), build(folder, "rounded.gguf", dtype="float32").logits(rows)
        error = float((rounded - exact).norm() / exact.norm())
        assert 1e-4 < error < 0.05


def test_what_is_amiss_is_said(folder, tmp_path, monkeypatch):
    def refused(match, **options):
        with pytest.raises(ConfigError, match=match):
            ModelChoice.of("transformers", **options).build()

    deep = folder / "deep"
    refused("holds GGUF files: name one by `gguf_file`: exact.gguf, rounded.gguf", model=str(deep))
    refused("has no file 'other.gguf'; it has exact.gguf, rounded", model=str(deep), gguf_file="other.gguf")
    refused("name the folder that it is in by `model` and 'exact.gguf' by `gguf_file`", model=str(deep / "exact.gguf"))
    refused("'nf4' and `gguf_file` exclude each other", model=str(deep), gguf_file="exact.gguf", quantisation="nf4")
    shutil.copy(deep / "exact.gguf", tmp_path / "cut.gguf")
    with (tmp_path / "cut.gguf").open("r+b") as file:
        file.truncate(100_000)
    refused("cannot load the model", model=str(tmp_path), gguf_file="cut.gguf")
    monkeypatch.setitem(sys.modules, "gguf", None)
    refused(r"needs the extra crosscoders\[gguf\]: pip install", model=str(deep), gguf_file="exact.gguf")


def test_a_file_on_the_hub_is_taken_from_there(hub, folder, tmp_path, monkeypatch):
    """And not one of the same name that lies in the current folder, which the library would take first."""
    from huggingface_hub import HfApi

    api = HfApi(token="hf_alice")
    api.create_repo("alice/tiny")
    path = folder / "deep" / "exact.gguf"
    commit = api.upload_file(path_or_fileobj=path, path_in_repo="deep/exact.gguf", repo_id="alice/tiny").oid
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deep").mkdir()
    for name in ("exact.gguf", "deep/exact.gguf"):
        (tmp_path / name).touch()
    adapter = build("alice/tiny")
    assert adapter.describe()["revision"] == commit
    plain = ModelChoice.of("transformers", model="tiny-pair/chat").build()
    torch.testing.assert_close(adapter.logits(rows := ROWS._rows(adapter)), plain.logits(rows), rtol=1e-4, atol=1e-4)
