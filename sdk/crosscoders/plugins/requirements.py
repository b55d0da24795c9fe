"""What a config requires of the environment, checked before anything of it is looked up."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from ..errors import ConfigError, PluginError, listed, shown
from .registry import Registry, get_registry


def parsed(text: Any) -> Requirement:
    """A requirement such as `my-plugin>=1`, as pip writes it; `ConfigError` where it is not one or has an address."""
    try:
        requirement = Requirement(text)
    except (InvalidRequirement, TypeError) as error:
        raise ConfigError(f'requires: {shown(text)} is not a requirement such as "my-plugin>=1"') from error
    if requirement.url:
        raise ConfigError(f"requires: {shown(text)} names an address; say which distribution and version, as for pip")
    return requirement


def check_requirements(requires: Sequence[Any], registry: Registry | None = None) -> None:
    """`PluginError` in one sentence where what a config requires is not installed, or its plugin cannot be used."""
    missing = [(text, problem) for text in requires if (problem := _problem(parsed(text)))]
    if missing:
        command = " ".join(f'"{text}"' for text, _ in missing)
        what = "; ".join(f"{text}, {problem}" for text, problem in missing)
        raise PluginError(f"this config requires {what}: pip install {command}")
    names = {canonicalize_name(parsed(text).name) for text in requires}
    aside = [
        str(each)
        for each in (registry or get_registry()).set_aside
        if canonicalize_name(each.provider.distribution) in names
    ]
    if aside:
        raise PluginError(f"this config requires a plugin that is installed but cannot be used: {listed(aside)}")


def _problem(requirement: Requirement) -> str:
    if requirement.marker is not None and not requirement.marker.evaluate():
        return ""
    try:
        found = version(requirement.name)
    except PackageNotFoundError:
        return "which is not installed"
    return "" if requirement.specifier.contains(found, prereleases=True) else f"of which version {found} is installed"
