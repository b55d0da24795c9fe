"""The plugin host: discovery, isolation, conflicts, blocking."""

import subprocess
import sys

import pytest

from crosscoders import ArchitectureSpec, LossSpec, PluginError, Registry, hookimpl
from crosscoders.errors import CrosscodersError
from crosscoders.plugins.hookspecs import CrosscodersSpecs
from crosscoders.plugins.kinds import KINDS


class Good:
    @hookimpl
    def crosscoders_architectures(self):
        yield ArchitectureSpec(name="wide", config="crosscoders:NoOptions", build="good:wide")


class WrongRecord:
    @hookimpl
    def crosscoders_losses(self):
        yield ArchitectureSpec(name="odd", config="crosscoders:NoOptions", build="odd:odd")


class Raises:
    @hookimpl
    def crosscoders_losses(self):
        raise RuntimeError("no licence")


class FromTheFuture:
    @hookimpl
    def crosscoders_telepathy(self):
        yield 1


class Wrapper:
    @hookimpl(wrapper=True)
    def crosscoders_losses(self):
        return (yield)


def registry_of(**plugins):
    registry = Registry()
    for name, plugin in plugins.items():
        registry.register(plugin, name=name, distribution=f"dist-{name}", version="1.2")
    return registry


def test_installed_plugins_are_found():
    registry = Registry.discover()
    assert {"acausal", "sae", "transcoder"} <= set(registry.architectures)
    assert {"l1", "batchtopk"} <= set(registry.losses)
    assert {"transformers", "synthetic"} <= set(registry.model_adapters)
    assert {"decoder_norms", "latent_scaling", "amplification"} <= set(registry.analyses)
    assert not registry.set_aside


def test_unknown_name_lists_what_there_is_and_what_was_set_aside():
    registry = registry_of(good=Good(), broken=FromTheFuture())
    with pytest.raises(PluginError) as error:
        registry.architectures["nope"]
    assert "no architecture is called 'nope'; available: wide" in str(error.value)
    assert "not loaded: dist-broken 1.2 (plugin 'broken')" in str(error.value)
    assert "crosscoders_telepathy" in str(error.value)


@pytest.mark.parametrize("plugin", [WrongRecord(), Raises(), Wrapper()], ids=lambda p: type(p).__name__)
def test_a_bad_hook_takes_no_others_down(plugin):
    registry = registry_of(bad=plugin, good=Good())
    assert list(registry.architectures) == ["wide"]
    assert list(registry.losses) == []
    assert [aside.provider.plugin for aside in registry.set_aside] == ["bad"]


def test_strict_registry_raises_at_once():
    registry = Registry(strict=True)
    registry.register(Raises(), name="bad")
    with pytest.raises(PluginError, match="no licence"):
        _ = registry.losses


def test_conflict_is_raised_only_when_the_name_is_used():
    registry = registry_of(first=Good(), second=Good())
    assert list(registry.architectures) == ["wide"]
    with pytest.raises(PluginError, match="2 plugins provide the architecture 'wide'.*'first:wide'.*'second:wide'"):
        registry.architectures["wide"]
    assert registry.architectures["second:wide"].provider.distribution == "dist-second"


def test_lazy_reference_that_cannot_be_imported_is_a_plugin_error():
    with pytest.raises(PluginError, match=r"good:wide"):
        registry_of(good=Good()).architectures["wide"].spec.build.load()


def test_record_names_are_checked():
    with pytest.raises(ValueError, match="name"):
        LossSpec(name="Bad Name", config="a:b", build="a:b")


def run_python(code, **environment):
    import os

    merged = {**os.environ, "CROSSCODERS_STRICT_PLUGINS": "0", **environment}
    return subprocess.run([sys.executable, "-c", code], env=merged, capture_output=True, text=True, check=False)


def test_blocking_by_environment():
    code = "from crosscoders import get_registry; r = get_registry(); print(len(r.architectures), len(r.set_aside))"
    assert run_python(code, CROSSCODERS_DISABLE_PLUGINS="all").stdout.split() == ["0", "2"]
    assert run_python(code, CROSSCODERS_DISABLE_PLUGINS="crosscoders-plugins").stdout.split() == ["0", "1"]


BROKEN = {
    "entry_points.txt": "[crosscoders]\nbroken-plugin = broken_plugin_module\n",
    "METADATA": "Metadata-Version: 2.1\nName: broken-plugin\nVersion: 0.3.1\n",
}


def broken_distribution(folder):
    info = folder / "broken_plugin-0.3.1.dist-info"
    info.mkdir()
    for name, text in BROKEN.items():
        (info / name).write_text(text)
    (folder / "broken_plugin_module.py").write_text("import does_not_exist\n")
    return str(folder)


def test_a_plugin_that_cannot_be_imported_is_set_aside_with_its_reason(tmp_path):
    code = "from crosscoders import get_registry; r = get_registry(); print(r.set_aside[0]); r.losses['nope']"
    found = run_python(code, PYTHONPATH=broken_distribution(tmp_path))
    reason = "broken-plugin 0.3.1 (plugin 'broken-plugin'): ModuleNotFoundError: No module named 'does_not_exist'"
    assert found.stdout.strip() == reason
    assert f"not loaded: {reason}" in found.stderr


def test_strict_environment_raises(tmp_path):
    code = "from crosscoders import get_registry; get_registry()"
    found = run_python(code, PYTHONPATH=broken_distribution(tmp_path), CROSSCODERS_STRICT_PLUGINS="1")
    assert found.returncode != 0 and "does_not_exist" in found.stderr


def test_importing_and_listing_does_not_import_torch():
    code = "import sys, crosscoders; crosscoders.get_registry().listing(); sys.exit('torch' in sys.modules)"
    assert run_python(code).returncode == 0


def test_every_hook_has_a_kind_and_every_kind_a_hook():
    hooks = {name for name in vars(CrosscodersSpecs) if name.startswith("crosscoders_")}
    assert hooks == {hook for hook, _ in KINDS.values()}


@pytest.mark.parametrize("hook", sorted(hook for hook, _ in KINDS.values()))
def test_hookspec_examples_run(hook):
    """Each example registers, and its hook yields its record."""
    import doctest

    method = getattr(CrosscodersSpecs, hook)
    tests = [t for t in doctest.DocTestFinder().find(method, hook, globs={}) if t.examples]
    assert len(tests) == 1
    found = {}
    tests[0].globs = found
    runner = doctest.DocTestRunner()
    runner.run(tests[0], clear_globs=False)
    assert runner.failures == 0
    registry = Registry(strict=True)
    plugin = type("Plugin", (), {hook: staticmethod(found[hook])})()
    registry.register(plugin, name="example")
    kind = next(kind for kind, (name, _) in KINDS.items() if name == hook)
    assert len(registry.catalog(kind)) == 1


def test_errors_have_one_base():
    import crosscoders.errors as errors

    for error in vars(errors).values():
        if isinstance(error, type) and issubclass(error, Exception):
            assert issubclass(error, CrosscodersError)
