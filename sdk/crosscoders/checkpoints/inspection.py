"""What is said of another library's checkpoint before it is read: as text, with the next command, and as plain data."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from .assemble import assumptions, described, examples
from .blueprint import Answers, Blueprint, Slot


def inspection_text(plan: Blueprint, name: str, answers: Answers, given: Sequence[str] = ()) -> str:
    """What `crosscoders inspect NAME` prints; `given` are the options that it was called with."""
    lines = [f"{name}: {plan.family}, format {plan.format}" + (f" ({plan.version})" if plan.version else "")]
    reads = {slot for group in plan.groups for slot in group.reads}
    writes = {slot for group in plan.groups for slot in group.writes}
    for number, slot in enumerate(plan.slots):
        role = " and ".join(word for word, names in (("read", reads), ("written", writes)) if slot.key in names)
        site = answers.site(slot, number)
        says = f"{role}: " if role else ""
        lines.append(f"slot {described(slot)}, width {slot.width}, {says}{site or 'which site is not said'}")
    if plan.refused:
        return "\n".join([*lines, f"cannot be held: {plan.refused}"])
    skips = f", {len(plan.skip)} skip maps" if plan.skip else ""
    lines.append(f"{plan.num_latents} latents{_groups(plan)}, gate {plan.gate}{skips}")
    lines.append(f"stored in {str(plan.dtype).removeprefix('torch.')}, {plan.size / 1e6:.1f} MB")
    lines += [f"model {key}: {model}" for key, model in plan.models.items()]
    lines += [f"assumed: {text}" for text in plan.assumed]
    lines += [f"warning: {text}" for text in plan.warnings]
    lines += [f"not said: {text}" for text in assumptions(plan, answers)]
    missing = unnamed(plan, answers)
    asked = [question for question in answers.open(plan.questions) if question.assumed is None]
    unknown = unscaled(plan, answers)
    lines += [f"to be answered: the site of slot {described(slot)}" for slot in missing]
    lines += [f"to be answered: {question.text}" for question in asked]
    if unknown:
        lines.append(
            f"to be answered to encode: what activations were multiplied by at {', '.join(s.key for s in unknown)} "
            "(--normalisation none, SITE=SCALE for each, or estimate)"
        )
    words = ["crosscoders", "convert", name, "FOLDER", *given]
    for key, site in examples(missing).items():
        words += ["--site", f"{key}={site}"]
    for question in asked:
        words += ["--answer", f"{question.key}={question.example}"]
    if unknown:
        words += ["--normalisation", "estimate"]
    lines.append(f"next: {shlex.join(words)}")
    return "\n".join(lines)


def inspection_data(plan: Blueprint, answers: Answers) -> dict[str, Any]:
    """The same as plain data."""
    return {
        "format": plan.format,
        "family": plan.family,
        "version": plan.version,
        "slots": [
            {"key": slot.key, "width": slot.width, "site": answers.site(slot, n), "what": slot.what}
            for n, slot in enumerate(plan.slots)
        ],
        "groups": [
            {"name": g.name, "num_latents": g.num_latents, "reads": list(g.reads), "writes": list(g.writes)}
            for g in plan.groups
        ],
        "skip": [list(block) for block in plan.skip],
        "gate": str(plan.gate),
        "dtype": str(plan.dtype).removeprefix("torch."),
        "bytes": plan.size,
        "models": dict(plan.models),
        "unknown_scales": [slot.key for slot in unscaled(plan, answers)],
        "questions": [
            {**attrs.asdict(question), "answer": answers.others.get(question.key)} for question in plan.questions
        ],
        "assumed": list(plan.assumed),
        "warnings": list(plan.warnings),
        "refused": plan.refused,
        "config": plain(plan.config),
    }


def unnamed(plan: Blueprint, answers: Answers) -> list[Slot]:
    """Slots whose site neither the file nor an answer says."""
    return [slot for number, slot in enumerate(plan.slots) if not answers.site(slot, number)]


def unscaled(plan: Blueprint, answers: Answers) -> list[Slot]:
    """Slots whose scale neither the file nor an answer says."""
    return [
        slot
        for number, slot in enumerate(plan.slots)
        if slot.key in plan.unknown_scales and answers.scale(slot, answers.site(slot, number)) is None
    ]


def plain(value: Any) -> Any:
    """JSON data of a config that may be YAML."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _groups(plan: Blueprint) -> str:
    if len(plan.groups) < 2:
        return ""
    sizes = {group.num_latents for group in plan.groups}
    return f" in {len(plan.groups)} groups" + (f" of {sizes.pop()}" if len(sizes) == 1 else "")
