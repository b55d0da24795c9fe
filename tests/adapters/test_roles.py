"""Whose the tokens of a conversation are: exact by the template, or refused with the reason."""

import shutil

import pytest
import torch

from crosscoders import (
    Chat,
    ConfigError,
    DocumentError,
    MarksRoles,
    MaskConfig,
    Message,
    ModelChoice,
    RunConfig,
    Text,
    TokenIds,
    train,
)
from crosscoders.activations.masks import keep_mask
from crosscoders.models.capabilities import tokenized
from crosscoders.models.sample import Documents
from crosscoders.models.sequences import SequenceReader
from crosscoders_adapters.foreign import TINY_PAIR

CHAT = Chat(
    (
        Message("system", "Be brief."),
        Message("user", "What is join for?"),
        Message("assistant", "It joins."),
        Message("user", "And split?"),
        Message("assistant", "The other way."),
    )
)
CHATML = (
    "{%- for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<eos>\n{%- endfor %}"
    "{%- if add_generation_prompt %}<|assistant|>\n{%- endif %}"
)
MARKED = (
    "{%- for m in messages %}<|{{ m.role }}|>\n{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<eos>"
    "{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}"
)
THINKS = (  # as Qwen 3: only the last answer has a place for thoughts
    "{%- for m in messages %}<|{{ m.role }}|>\n"
    "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}{{ m.content }}<eos>{% endfor %}"
    "{%- if add_generation_prompt %}<|assistant|>\n{%- endif %}"
)
MERGES = (  # as Gemma: what the system says comes into the user's turn, and a conversation begins with a user
    "{%- if messages[0].role == 'system' %}{% set first = messages[0].content + '\n\n' %}{% set turns = messages[1:] %}"
    "{%- else %}{% set first = '' %}{% set turns = messages %}{% endif %}"
    "{%- if not turns %}{{ raise_exception('there is no user') }}{% endif %}"
    "{%- for m in turns %}<{{ m.role }}>{{ (first if loop.first else '') + (m.content | trim) }}<eos>{% endfor %}"
    "{%- if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture
def with_template(tmp_path):
    def made(template):
        folder = tmp_path / "model"
        if not folder.exists():
            shutil.copytree(TINY_PAIR / "chat", folder)
        (folder / "chat_template.jinja").write_text(template)
        return ModelChoice.of("transformers", model=str(folder)).build()

    return made


def said(adapter, chat, *roles):
    """The text of the runs of tokens that belong to the roles."""
    tokens = tokenized(adapter, chat, roles)
    assert len(tokens.wanted) == len(tokens.ids)
    runs, before = [], False
    for number, wanted in zip(tokens.ids, tokens.wanted):
        if wanted:
            runs = [*runs, []] if not before else runs
            runs[-1].append(number)
        before = wanted
    return [adapter.tokenizer.decode(run) for run in runs]


def test_an_answer_goes_up_to_the_token_that_ends_it(with_template):
    plain = ModelChoice.of("transformers", model="tiny-pair/chat").build()
    assert isinstance(plain, MarksRoles)
    assert said(plain, Chat(CHAT.messages[1:]), "assistant") == ["It joins.<eos>", "The other way.<eos>"]
    found = said(with_template(CHATML), CHAT, "assistant")
    assert [run.strip() for run in found] == ["It joins.<eos>", "The other way.<eos>"]


def test_what_the_template_marks_is_taken(with_template):
    adapter = with_template(MARKED)
    assert said(adapter, CHAT, "assistant") == ["It joins.<eos>", "The other way.<eos>"]
    assert said(adapter, CHAT, "assistant", "system")[0].strip() == "Be brief."
    # It knows no prompt for an answer, and the header of one is not the model's.
    unmarked = with_template(MARKED.replace("{% generation %}", "").replace("{% endgeneration %}", ""))
    assert [run.strip() for run in said(unmarked, CHAT, "assistant")] == ["It joins.<eos>", "The other way.<eos>"]


def test_of_other_roles_it_is_the_content(with_template):
    adapter = with_template(CHATML)
    assert [run.strip() for run in said(adapter, CHAT, "user")] == ["What is join for?", "And split?"]
    assert [run.strip() for run in said(adapter, CHAT, "system")] == ["Be brief."]
    assert said(adapter, CHAT, "tool") == []


def test_where_earlier_answers_are_laid_out_otherwise_it_is_their_content(with_template):
    found = said(with_template(THINKS), CHAT, "assistant")
    assert found[0].strip() == "It joins." and found[1].endswith("</think>\n\nThe other way.<eos>")


def test_a_system_prompt_within_the_users_turn_is_told_apart(with_template):
    adapter = with_template(MERGES)
    assert [run.strip() for run in said(adapter, CHAT, "system")] == ["Be brief."]
    assert [run.strip() for run in said(adapter, CHAT, "user")] == ["What is join for?", "And split?"]
    assert said(adapter, CHAT, "assistant") == ["It joins.<eos>", "The other way.<eos>"]


def test_tool_calls_are_the_models(with_template):
    template = (
        "{%- for m in messages %}<|{{ m.role }}|>{{ m.content }}{% if m.tool_calls %}{{ m.tool_calls | tojson }}"
        "{% endif %}<eos>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    call = Message("assistant", "", extra={"tool_calls": [{"name": "rain"}]})
    chat = Chat((Message("user", "Rain?"), call, Message("tool", "yes"), Message("assistant", "It rains.")))
    adapter = with_template(template)
    assert said(adapter, chat, "assistant") == ['[{"name": "rain"}]<eos>', "It rains.<eos>"]
    assert said(adapter, chat, "tool") == ["yes"]


TWICE = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }} {{ m.content }}{% endfor %}"
COUNTS = "{% for m in messages %}<|{{ m.role }}|>{{ m.content | length }} {{ m.content }}{% endfor %}"
HIDDEN = "{% for m in messages %}<|{{ m.role }}|>{% if m.tool_calls %}call{% endif %}{{ loop.revindex }}{% endfor %}"


@pytest.mark.parametrize(
    ("template", "role", "match"),
    [
        (TWICE, "user", r"more changes in the layout than the content of turn 2 \(user\)"),
        (COUNTS, "user", r"more changes in the layout"),
        (HIDDEN, "assistant", r"turn 3 \(assistant\)"),
    ],
)
def test_what_cannot_be_told_is_refused_with_the_reason(with_template, template, role, match):
    with pytest.raises(DocumentError, match=match) as caught:
        tokenized(with_template(template), CHAT, [role])
    assert "{% generation %}" in str(caught.value)


def test_a_tokenizer_that_does_not_know_places_is_refused(with_template, monkeypatch):
    adapter = with_template(CHATML)
    monkeypatch.setattr(type(adapter.tokenizer), "is_fast", False)
    with pytest.raises(DocumentError, match="not a fast one"):
        tokenized(adapter, CHAT, ["assistant"])


def test_running_text_counts_and_ready_ids_are_refused():
    adapter = ModelChoice.of("transformers", model="tiny-pair/chat").build()
    assert tokenized(adapter, Text("some text"), ["assistant"]).wanted is None
    with pytest.raises(DocumentError, match="not known whose they are"):
        tokenized(adapter, TokenIds((5, 6)), ["assistant"])


def test_an_adapter_that_does_not_know_roles_is_refused():
    class Plain:
        def describe(self):
            return {"model": "plain"}

        def vocabulary(self):
            return ""

        def has_chat_template(self):
            return True

        def tokenize(self, document):
            return TokenIds((1,))

        def token_texts(self, ids):
            return []

        def text(self, ids):
            return ""

    with pytest.raises(ConfigError, match=r"activations\.masks\.roles needs .* \(MarksRoles\).* lacks tokens_of"):
        tokenized(Plain(), CHAT, ["assistant"])


@pytest.mark.parametrize("pack", [True, False, "across"])
def test_rows_carry_it_through_cuts_and_packing(pack):
    adapter = ModelChoice.of("transformers", model="tiny-pair/chat").build()
    long = Chat((Message("user", "Why? " * 30), Message("assistant", "Because. " * 30)))
    source = Documents([CHAT, Text("plain words here"), long])
    reader = SequenceReader(source, adapter, context_length=24, pack=pack, repeat=False, roles=["assistant"])
    plain = SequenceReader(source, adapter, context_length=24, pack=pack, repeat=False)
    rows, every = reader.read(100), plain.read(100)
    assert torch.equal(rows.ids, every.ids) and every.wanted is None
    here = keep_mask(MaskConfig(drop_bos=False, max_norm_multiple=0.0), rows, torch.zeros(*rows.ids.shape, 0), None)
    texts = adapter.text(rows.ids[here].tolist())
    assert "Because." in texts and "It joins." in texts and "plain words" in texts
    assert "Why?" not in texts and "brief" not in texts


def test_a_run_keeps_answers_only_and_says_so(tmp_path):
    config = {
        "models": {"chat": {"name": "transformers", "model": "tiny-pair/chat"}},
        "sites": ["chat/layers.1"],
        "tokens": {"name": "chat_files", "paths": [str(tmp_path / "chats.jsonl")]},
        "architecture": {"name": "acausal", "num_latents": 64},
        "loss": {"name": "batchtopk", "k": 4},
        "activations": {
            "context_length": 32,
            "block_tokens": 1024,
            "calibration_tokens": 512,
            "masks": {"roles": ["assistant"]},
        },
        "training": {"num_tokens": 512, "batch_size": 128, "evaluation_tokens": 128, "fidelity_tokens": 64},
        "output": str(tmp_path / "run"),
    }
    (tmp_path / "chats.jsonl").write_text(
        "\n".join(
            f'{{"messages": [{{"role": "user", "content": "What is {n}?"}}, '
            f'{{"role": "assistant", "content": "It is number {n} of many."}}]}}'
            for n in range(200)
        )
    )
    crosscoder = train(RunConfig.from_dict(config), quiet=True)
    assert crosscoder.info.recipe["activations"]["masks"]["roles"] == ["assistant"]
    with pytest.raises(ConfigError, match="asistant"):
        RunConfig.from_dict({**config, "activations": {"masks": {"roles": ["asistant"]}}})
