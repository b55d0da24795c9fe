"""Tokens of documents: the same on every day, and one clear error where a tokenizer or a template refuses one."""

import shutil
from pathlib import Path

import pytest

import crosscoders_adapters
from crosscoders import Chat, ConfigError, CrosscodersError, DocumentError, Message, ModelChoice, Text

DATED = (
    "{{ bos_token }}Today: {{ strftime_now('%d %b %Y, %H:%M:%S') }}\n{% for m in messages %}{{ m.content }}{% endfor %}"
)
HI = Chat((Message("user", "hi"),))


def model_with(tmp_path, template, **options):
    folder = tmp_path / "model"
    shutil.copytree(Path(crosscoders_adapters.__file__).parent / "tiny_pair" / "chat", folder, dirs_exist_ok=True)
    (folder / "chat_template.jinja").write_text(template)
    return ModelChoice.of("transformers", model=str(folder), **options).build()


def told(adapter, chat=HI):
    return adapter.text(adapter.tokenize(chat).ids)


def test_a_template_that_asks_for_the_date_is_told_the_same_one_every_day(tmp_path):
    assert told(model_with(tmp_path, DATED)) == "Today: 26 Jul 2024, 00:00:00\nhi"
    assert told(model_with(tmp_path, DATED, template_date="2031-02-03T04:05:06")) == "Today: 03 Feb 2031, 04:05:06\nhi"
    assert model_with(tmp_path, DATED).prompt("hi")[1:] == list(model_with(tmp_path, DATED).tokenize(HI).ids)[1:]


def test_the_usual_way_of_templates_to_ask_for_the_date(tmp_path):
    llama = (
        "{%- if not date_string is defined %}{%- if strftime_now is defined %}"
        "{%- set date_string = strftime_now('%-d %B %y') %}{%- else %}{%- set date_string = 'none' %}{%- endif %}"
        "{%- endif %}\n{% macro inner() %}{{ strftime_now('%Y') }}{% endmacro %}{{ date_string }} {{ inner() }}"
    )
    assert told(model_with(tmp_path, llama, template_date="2024-07-06")) == "6 July 24 2024"
    given = model_with(tmp_path, llama, template_variables={"date_string": "Easter"})
    assert told(model_with(tmp_path, "\n{{ strftime_now('%Y') }}")) == "\n2024"
    assert told(given) == "Easter 2024"


def test_the_date_is_part_of_what_a_run_records():
    choice = ModelChoice.of("transformers", model="tiny-pair/chat")
    assert choice.options.template_date == "2024-07-26" and choice.options.template_variables == {}
    with pytest.raises(CrosscodersError, match="template_date should be a date such as 2024-07-26, not 'today'"):
        ModelChoice.of("transformers", model="tiny-pair/chat", template_date="today")


def test_what_a_template_refuses_is_one_error_with_the_roles(tmp_path):
    refusing = model_with(tmp_path, "{{ raise_exception('roles must alternate') }}")
    for refused in (lambda: refusing.tokenize(HI), lambda: refusing.prompt("hi")):
        with pytest.raises(DocumentError, match=r"refuses this chat \(roles user\): roles must alternate"):
            refused()
    broken = model_with(tmp_path, "{{ messages[0].content + 1 }}")
    with pytest.raises(DocumentError, match="refuses this chat"):
        broken.tokenize(HI)
    assert issubclass(DocumentError, ConfigError)


def test_templates_see_what_else_a_message_has(tmp_path):
    adapter = model_with(
        tmp_path, "{% for m in messages %}{{ m.role }} {{ m.name or m.tool_calls[0].id }} {% endfor %}"
    )
    call = Message("assistant", "", extra={"tool_calls": [{"id": "c1"}]})
    assert (
        told(adapter, Chat((call, Message("tool", "rain", extra={"name": "weather"})))) == "assistant c1 tool weather "
    )


def test_halves_of_characters_are_replaced():
    adapter = ModelChoice.of("transformers", model="tiny-pair/chat").build()
    assert Text("a \ud83d b").text == "a \ufffd b" and Text("a 🦜 é").text == "a 🦜 é"
    assert adapter.text(adapter.tokenize(Text("a \ud83d b")).ids) == "a \ufffd b"
    assert len(adapter.tokenize(Chat((Message("user", "\udc00"),))).ids) > 2


def test_text_has_the_ids_that_the_tokenizer_gives_it_whatever_was_set_before():
    """Its Rust backend is asked for ids alone, which is as fast for a long document as for short ones."""
    adapter = ModelChoice.of("transformers", model="tiny-pair/chat").build()
    tokenizer = adapter.tokenizer
    text = f"A list is  a sequence. {tokenizer.eos_token}\r\n\n 12345 Äß 漢字 🙂\t" * 50
    for split in (False, True):
        tokenizer.split_special_tokens = split
        expected = tokenizer(text, add_special_tokens=False)["input_ids"]
        tokenizer(text, truncation=True, max_length=8, padding="max_length")
        assert adapter.tokenize(Text(text)).ids == [tokenizer.bos_token_id, *expected], split
        assert (tokenizer.eos_token_id in expected) != split


def test_a_family_that_reads_text_in_its_own_way_is_asked_itself():
    adapter = ModelChoice.of("transformers", model="tiny-pair/base").build()

    class Upper(type(adapter.tokenizer)):
        def _encode_plus(self, text, *arguments, **options):
            return super()._encode_plus(text.upper(), *arguments, **options)

    plain = adapter.tokenize(Text("A LIST")).ids
    assert adapter.tokenize(Text("a list")).ids != plain
    adapter.tokenizer.__class__ = Upper
    assert adapter.tokenize(Text("a list")).ids == plain
