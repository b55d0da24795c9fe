"""Tokenizers without this or that, vocabularies that are padded, and rows that are padded on the left."""

import pytest
import torch
import transformers

from crosscoders import Chat, ConfigError, DocumentError, Message, Text, TokenBatch, TokenIds
from crosscoders.models.predictions import Piece, pieces
from crosscoders.models.sample import Documents
from crosscoders.models.sequences import SequenceReader
from crosscoders_adapters.transformers import TransformersAdapter
from letters import Tokenizer
from small_models import SIZES, bert, gpt2, llama, made


class Bare(Tokenizer):
    """No beginning, no end, no padding, no chat template."""

    all_special_ids = ()
    bos_token_id = eos_token_id = None


class Short(Tokenizer):
    """A tokenizer of fewer tokens than the model has embeddings for, as where these are padded to a round number."""

    size, letters = 28, 25


class Long(Tokenizer):
    """One of more tokens, as where tokens were added and the embeddings not resized."""

    size, letters = 40, 37


def test_a_tokenizer_without_a_beginning_gives_texts_without_one():
    adapter = TransformersAdapter.wrap(llama(), Bare(), name="bare")
    tokens = adapter.tokenize(Text("abc"))
    assert len(tokens.ids) == 3 and not any(tokens.bos) and not any(tokens.special)
    long = SequenceReader(Documents([Text("abcdefghij")]), adapter, context_length=4, pack=False, repeat=False).read(9)
    assert long.ids[long.attention].tolist() == list(adapter.tokenize(Text("abcdefghij")).ids)
    assert adapter.end_tokens() == frozenset({SIZES["eos_token_id"]})  # the model's config knows one


def test_a_tokenizer_without_a_template_refuses_chats_and_takes_questions_as_text():
    adapter = TransformersAdapter.wrap(llama(), Bare(), name="bare")
    assert not adapter.has_chat_template()
    with pytest.raises(ConfigError, match="'bare' has no chat template"):
        adapter.tokenize(Chat((Message("user", "hi"),)))
    assert adapter.prompt("abc") == list(adapter.tokenize(Text("abc")).ids)


def test_ids_that_only_the_model_knows_are_read_and_shown_by_their_number():
    adapter = TransformersAdapter.wrap(llama(), Short(), name="padded")
    tokens = adapter.tokenize(TokenIds((5, 27, 28, 31)))
    assert list(tokens.ids) == [5, 27, 28, 31]
    assert adapter.token_texts([5, 27, 28, 31]) == ["f", "|", "<28>", "<31>"]
    assert adapter.text([5, 28, 31, 6]) == "fg"


def test_ids_that_only_the_tokenizer_knows_are_refused():
    adapter = TransformersAdapter.wrap(llama(), Long(), name="longer")
    assert max(adapter.tokenize(Text("abc")).ids) < 32
    with pytest.raises(DocumentError, match=r"'longer' has embeddings for the token ids below 32, .* has 35"):
        adapter.tokenize(TokenIds((5, 35)))
    with pytest.raises(DocumentError, match="embeddings"):
        adapter.tokenize(Text(chr(32)))  # 3 + 32 % 37


def test_predictions_of_differently_padded_vocabularies_are_compared_on_what_both_have():
    """Qwen 2.5 has 151,936 logits or 152,064, by its size, for the same tokens."""
    ids = torch.tensor([[5, 9, 7, 6, 8]])
    none = torch.zeros_like(ids, dtype=torch.bool)
    rows = TokenBatch(ids, ~none, none, none)
    small = TransformersAdapter.wrap(llama(), Tokenizer(), name="small")
    wide = llama()
    wide.resize_token_embeddings(48, mean_resizing=False)
    wide = TransformersAdapter.wrap(wide, Tokenizer(), name="wide")
    piece: Piece = next(pieces(small, "m", rows))
    other: Piece = next(pieces(wide, "m", rows))
    assert (piece.clean_NV.shape[1], other.clean_NV.shape[1]) == (32, 48)
    left, right = piece.clean_NV, wide.logits(rows)[0, :4, :32].log_softmax(dim=-1)
    torch.testing.assert_close(piece.divergence(piece.clean_NV, other.clean_NV), naive_kl(right, left))
    torch.testing.assert_close(other.divergence(other.clean_NV, piece.clean_NV), naive_kl(left, right))
    assert bool((piece.divergence(piece.clean_NV) == 0).all())


def naive_kl(p, q):
    return (p.exp() * (p - q)).sum(dim=-1).clamp_min(0)


def roberta():
    return made(transformers.RobertaModel, transformers.RobertaConfig(**{**SIZES, "max_position_embeddings": 66}))


def distilbert():
    config = transformers.DistilBertConfig(vocab_size=32, dim=16, hidden_dim=24, n_layers=2, n_heads=2, pad_token_id=0)
    return made(transformers.DistilBertModel, config)


@pytest.mark.parametrize("make", [llama, gpt2, bert, roberta, distilbert])
def test_padding_on_the_left_changes_no_activation(make):
    adapter = TransformersAdapter.wrap(make(), Tokenizer(), name="m")
    ids = torch.randint(5, 25, (2, 7), generator=torch.Generator().manual_seed(0))
    attention = torch.ones_like(ids, dtype=torch.bool)
    attention[1, :3] = False
    none = torch.zeros_like(attention)
    padded = adapter.activations(TokenBatch(ids * attention, attention, none, none), list(adapter.points()))
    for row, first in ((0, 0), (1, 3)):
        own = (tensor[row : row + 1, first:] for tensor in (ids, attention, none, none))
        for point, alone in adapter.activations(TokenBatch(*own), list(adapter.points())).items():
            torch.testing.assert_close(padded[point][row, first:], alone[0], rtol=1e-4, atol=1e-5, msg=point)
