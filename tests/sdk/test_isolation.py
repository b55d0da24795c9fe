"""Plugins of others: whatever they do when they are looked at or built, they are named and everything else works."""

import json
import os
import subprocess
import sys

import pytest

from crosscoders import LossChoice, LossSpec, PluginError, Registry, TokenSourceSpec, hookimpl
from crosscoders.plugins.installed import named_once
from crosscoders.plugins.isolation import attempt
from crosscoders.plugins.kinds import MOST_RECORDS

HOOK = "from crosscoders import hookimpl, LossSpec\n@hookimpl\ndef crosscoders_losses():\n"
RECORD = "    yield LossSpec(name='x', config='a:b', build='a:b', summary='\\x1b[2J\\x1b]0;owned\\x07')"
BROKEN = {
    "sysexit": "import sys; sys.exit(3)",
    "keyboard": "raise KeyboardInterrupt",
    "base-exception": "class E(BaseException): pass\nraise E",
    "hook-exits": HOOK + "    import sys; sys.exit(4)\n    yield",
    "endless-hook": HOOK
    + "    i = 0\n    while True:\n        i += 1\n        yield LossSpec(name=f'l{i}', config='a:b', build='a:b')",
}
SPOILING = {
    "prints": "print('hello')\nimport os; os.write(1, b'hello')\n" + HOOK + "    print('hello')\n    return []",
    "escapes": HOOK + RECORD,
    "crosscoders-plugins": HOOK + "    yield LossSpec(name='spoof', config='a:b', build='a:b')",
}


def distribution(folder, name, code, *, distribution=None):
    module, distribution = "plug_" + name.replace("-", "_"), distribution or name
    info = folder / f"{distribution}-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / f"{module}.py").write_text(code)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[crosscoders]\n{name} = {module}\n")


@pytest.fixture(scope="module")
def listing(tmp_path_factory):
    """What the command says with all of them installed: as JSON, and as text."""
    folder = tmp_path_factory.mktemp("plugins")
    for name, code in {**BROKEN, **SPOILING}.items():
        distribution(folder, name, code, distribution="spoof" if name == "crosscoders-plugins" else None)
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "CROSSCODERS_STRICT_PLUGINS": "0"}
    command = [sys.executable, "-m", "crosscoders", "plugins"]
    found = [
        subprocess.run([*command, *options], env=environment, capture_output=True, text=True, check=True, timeout=60)
        for options in (["--json"], [])
    ]
    return json.loads(found[0].stdout), found[1].stdout


def test_what_cannot_be_used_is_set_aside_with_its_reason(listing):
    aside = {entry["plugin"]: entry["reason"] for entry in listing[0]["set_aside"]}
    assert set(aside) == {*BROKEN, "crosscoders-plugins"}
    assert "SystemExit: 3" in aside["sysexit"] and "KeyboardInterrupt" in aside["keyboard"]
    assert f"more than {MOST_RECORDS:,} records" in aside["endless-hook"]


def test_ours_cannot_be_taken_the_name_of(listing):
    (ours,) = (plugin for plugin in listing[0]["plugins"] if plugin["plugin"] == "crosscoders-plugins")
    assert ours["distribution"] == "crosscoders" and "spoof" not in str(ours)
    assert "acausal" in listing[1] and "belongs to crosscoders" in listing[1]


def test_what_plugins_print_spoils_no_output_and_steers_no_terminal(listing):
    assert "hello" not in listing[1] and "\x1b" not in listing[1] and "\\x1b[2J" in listing[1]


def test_one_name_of_two_distributions_is_the_same_ones_in_any_order():
    from importlib.metadata import EntryPoint

    class Named(EntryPoint):
        dist = None

    first, second = EntryPoint("shared", "a_module", "crosscoders"), EntryPoint("shared", "b_module", "crosscoders")
    for point, name in ((first, "a-dist"), (second, "b-dist")):
        vars(point)["dist"] = type("D", (), {"name": name, "version": "1"})()
    for points in ([first, second], [second, first]):
        aside = {}
        chosen = named_once(points, aside.__setitem__)
        assert [provider.distribution for _, provider in chosen] == ["a-dist"]
        ((other, error),) = aside.items()
        assert other.distribution == "b-dist" and "belongs to a-dist 1" in str(error)


# -- what is built ------------------------------------------------------------------------------------------------


class Bare:
    """Neither a loss nor a token source."""


def raises(options):
    raise RuntimeError("in build")


def exits(options):
    sys.exit(5)


def nothing(options):
    return None


def bare(options):
    return Bare()


def itself(options):
    return Bare


class NotAttrs:
    pass


def built(name, *, config="crosscoders:NoOptions", spec=LossSpec):
    hook = {LossSpec: "crosscoders_losses", TokenSourceSpec: "crosscoders_token_sources"}[spec]
    record = spec(name="mine", config=config, build=f"crosscoders_test_isolation:{name}")
    registry = Registry()
    registry.register(type("P", (), {hook: staticmethod(hookimpl(lambda: [record], specname=hook))})(), name="theirs")
    offer = (registry.losses if spec is LossSpec else registry.token_sources)["mine"]
    return offer.build(offer.config_class()())


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    module = type(sys)("crosscoders_test_isolation")
    for thing in (raises, exits, nothing, bare, itself, NotAttrs):
        setattr(module, thing.__name__, thing)
    monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("raises", "RuntimeError: in build"),
        ("exits", "SystemExit: 5"),
        ("nothing", "a Loss should come back, not None"),
        ("bare", r"a Loss should come back, not a .*Bare"),
        ("itself", "not the class Bare itself"),
        ("gone", "cannot be imported"),
    ],
)
def test_what_build_returns_is_checked_and_the_plugin_named(name, message):
    with pytest.raises(PluginError, match=rf"the loss 'mine' of local 0 \(plugin 'theirs'\).*{message}"):
        built(name)


def test_protocols_are_checked_by_their_methods():
    with pytest.raises(PluginError, match=r"a TokenSource should come back.*it lacks documents"):
        built("bare", spec=TokenSourceSpec)


def test_options_must_be_an_attrs_class():
    with pytest.raises(PluginError, match="'theirs'.*not an attrs class"):
        built("bare", config="crosscoders_test_isolation:NotAttrs")


def test_modules_that_fail_are_named_by_what_refers_to_them(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    for name, code in {"bad_syntax": "def f(:", "bad_exit": "import sys; sys.exit(5)"}.items():
        (tmp_path / f"{name}.py").write_text(code)
        with pytest.raises(PluginError, match=f"'theirs'.*'{name}:Config', which cannot be imported"):
            built("bare", config=f"{name}:Config")


def test_the_users_own_interrupt_passes():
    import signal

    with pytest.raises(KeyboardInterrupt):
        attempt(lambda: signal.raise_signal(signal.SIGINT))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert LossChoice.of("l1").build() is not None
