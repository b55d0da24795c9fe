"""Promises kept: every component is tested by its suite, every name exported exists, every hook is documented."""

import ast
import inspect
import re
from functools import cache
from pathlib import Path

import pytest

import crosscoders
from crosscoders import get_registry
from crosscoders.plugins.hookspecs import CrosscodersSpecs
from crosscoders.plugins.kinds import KINDS

ROOT = Path(__file__).parent.parent
ADAPTER_TESTS = {
    "transformers": "TestTinyPair",
    "nnsight": "TestNnsight",
    "transformer_lens": "TestTransformerLens",
    "synthetic": "TestSynthetic",
    "synthetic_layers": "TestSyntheticLayers",
    "difference": "TestDifference",
}


@cache
def suites_in_tests():
    """Names of components that a conformance suite is subclassed for, by the suite's base."""
    found = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
                named = [
                    ast.literal_eval(statement.value)
                    for statement in node.body
                    if isinstance(statement, ast.Assign) and getattr(statement.targets[0], "id", "") == "name"
                ]
                found |= {(base, name) for base in bases for name in named}
                found |= {(base, node.name) for base in bases}
    return found


@cache
def pages():
    return [page.read_text() for page in (ROOT / "docs").rglob("*.md")]


SUITES = {
    "architecture": "ArchitectureSuite",
    "loss": "LossSuite",
    "loss term": "LossTermSuite",
    "analysis": "AnalysisSuite",
    "token source": "TokenSourceSuite",
    "gate": "GateSuite",
}


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, offer.spec.name) for kind in KINDS for offer in get_registry().catalog(kind).offers]
)
def test_every_component_runs_its_suite_and_has_a_docs_page(kind, name):
    if kind == "model adapter":
        assert ("ModelAdapterSuite", ADAPTER_TESTS[name]) in suites_in_tests()
    elif kind == "release":
        return  # data: tests of the table look at all of them
    elif kind != "checkpoint format":  # those are made in a loop, which a test of theirs compares with the registry
        assert (SUITES[kind], name) in suites_in_tests()
    assert any(f"`{name}`" in page for page in pages()), f"no docs page names {name}"


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, offer.spec.name) for kind in KINDS for offer in get_registry().catalog(kind).offers]
)
def test_every_reference_loads(kind, name):
    spec = get_registry().catalog(kind)[name].spec
    assert callable(spec.build.load())
    assert spec.config.load().__attrs_attrs__ is not None
    assert spec.config.load().__doc__


def test_every_option_says_what_it_means():
    from crosscoders.demo import DemoConfig
    from crosscoders.plugins.options import options_of

    offers = [offer for kind in KINDS for offer in get_registry().catalog(kind).offers]
    classes = {offer.config_class() for offer in offers} | {crosscoders.RunConfig, DemoConfig}
    options = [(cls.__name__, option) for cls in classes for option in options_of(cls)]
    assert len(options) > 200
    assert [(name, option.name) for name, option in options if not option.meaning.endswith(".")] == []


def test_the_documentation_has_the_options_of_every_component():
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("option_tables", ROOT / "docs" / "option_tables.py")
    tables = module_from_spec(spec)
    spec.loader.exec_module(tables)
    pages = {path: path.read_text() for path in (ROOT / "docs").rglob("*.md")}
    asked = {place for text in pages.values() for place in tables.PLACE.findall(text)}
    assert asked >= {"run", *SUITES, "model adapter"}
    page = tables.rendered("before\n<!-- options: loss -->\nafter", "components/losses")
    assert page.startswith("before\n") and "### Options of `batchtopk`" in page and page.endswith("after")
    assert "| `k` | integer ≥ 1 | `100` | Number of active latents per token. |" in page
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 5 for line in page.splitlines() if line.startswith("|"))
    assert "| `lr` | number > 0 | `0.0001` | Peak learning rate." in tables.rendered("<!-- options: run -->", "x")


@pytest.mark.parametrize("hook", sorted(hook for hook, _ in KINDS.values()))
def test_every_hook_is_documented_with_its_signature(hook):
    signature = (
        f"{hook}{inspect.signature(getattr(CrosscodersSpecs, hook)).replace(return_annotation=inspect.Signature.empty)}"
    )
    page = (ROOT / "docs" / "reference" / "hooks.md").read_text()
    assert signature.replace("(self)", "()") in page


def test_exports_are_sorted_complete_and_exist():
    assert crosscoders.__all__ == sorted(crosscoders.__all__)
    for name in crosscoders.__all__:
        assert getattr(crosscoders, name) is not None
    assert crosscoders.__version__


def test_every_name_for_plugin_authors_is_documented():
    from crosscoders import authoring

    page = (ROOT / "docs" / "reference" / "authoring.md").read_text()
    assert [name for name in authoring.__all__ if f"crosscoders.authoring.{name}\n" not in page] == []


ROOT_OF_THE_HOST = {
    "__init__.py": "the public names, imported on first use",
    "__init__.pyi": "the list of the public names",
    "__main__.py": "python -m crosscoders",
    "authoring.py": "the names for plugin authors",
    "converters.py": "converters of config fields",
    "devices.py": "devices by name, and where they sum in double precision",
    "errors.py": "the errors that users meet",
    "files.py": "files that appear whole or not at all",
    "owners.py": "which process a folder belongs to",
    "processes.py": "the processes of a run",
    "reading.py": "text, JSON and TOML of others",
    "py.typed": "the package is typed",
}


def test_modules_at_the_root_of_the_host_belong_to_no_room():
    there = {path.name for path in (ROOT / "sdk" / "crosscoders").iterdir() if path.is_file()}
    assert there == set(ROOT_OF_THE_HOST), "a new module goes into a room, or is named here with the reason"


def test_public_functions_and_classes_have_docstrings():
    missing = []
    for package in ("sdk/crosscoders", "plugins/crosscoders_plugins", "adapters/crosscoders_adapters"):
        for path in (ROOT / package).rglob("*.py"):
            tree = ast.parse(path.read_text())
            assert ast.get_docstring(tree), path
            missing += [
                f"{path.name}:{node.name}"
                for node in tree.body
                if isinstance(node, ast.FunctionDef | ast.ClassDef)
                and not node.name.startswith("_")
                and not ast.get_docstring(node)
            ]
    assert not missing


def test_modules_stay_short():
    for path in [p for root in ("sdk", "plugins", "adapters") for p in (ROOT / root).rglob("*.py")]:
        assert len(path.read_text().splitlines()) <= 450, path
