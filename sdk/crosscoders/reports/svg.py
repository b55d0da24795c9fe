"""SVG of other people's code, written anew with nothing in it but a drawing: no script, no link, nothing loaded."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree
from xml.sax.saxutils import escape, quoteattr

from ..errors import AnalysisError

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
ELEMENTS = frozenset(
    [
        "svg",
        "g",
        "defs",
        "symbol",
        "use",
        "path",
        "rect",
        "circle",
        "ellipse",
        "line",
        "polyline",
        "polygon",
        "text",
        "tspan",
        "textPath",
        "title",
        "desc",
        "clipPath",
        "mask",
        "marker",
        "pattern",
        "linearGradient",
        "radialGradient",
        "stop",
        "image",
    ]
)
"""Elements that are kept. Of a link (`a`) the content is; whatever else there is, such as a script, goes with its
content."""
STYLE = "stroke-linejoin:round;stroke-linecap:butt"
"""What matplotlib says in a style sheet, which would hold for the whole page."""
_WITHIN = re.compile(r"#[\w.:-]+|data:image/(png|jpeg);base64,[A-Za-z0-9+/=\s]*")
_LOADING = re.compile(r"url\(\s*(?![\"']?#)|@import|expression\(|javascript:|\\", re.IGNORECASE)


def safe_svg(text: str) -> str:
    """The drawing in an SVG document, to be put into a page; `AnalysisError` where it is not one.

    Elements and attributes that are not part of a drawing are left out: scripts, event handlers, style sheets, foreign
    content, and every reference but those to parts of the drawing itself and to images that it contains.
    """
    if "<!ENTITY" in text:
        raise AnalysisError("a figure's SVG declares entities, which a drawing does not need")
    try:
        root = ElementTree.fromstring(text)  # noqa: S314 - without entities
    except ElementTree.ParseError as error:
        raise AnalysisError(f"a figure's SVG is not well-formed XML: {error}") from error
    if _local(root.tag) != "svg":
        raise AnalysisError(f"a figure's SVG is not an SVG document: its root is '{_local(root.tag)}'")
    root.attrib.setdefault("style", STYLE)
    return "".join(_written(root, f' xmlns="{SVG}" xmlns:xlink="{XLINK}"'))


def image_svg(png: bytes, width: int, height: int) -> str:
    """An SVG document that shows a PNG image at its size in pixels."""
    data = b64encode(png).decode()
    return (
        f'<svg xmlns="{SVG}" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
        f'<image width="{width}" height="{height}" href="data:image/png;base64,{data}"/></svg>'
    )


def _written(element: ElementTree.Element, more: str = "") -> Iterator[str]:
    name = _local(element.tag)
    if name == "a":
        yield from _content(element)
    elif name in ELEMENTS:
        yield f"<{name}{more}{''.join(_attributes(element))}>"
        yield from _content(element)
        yield f"</{name}>"


def _content(element: ElementTree.Element) -> Iterator[str]:
    yield escape(element.text or "")
    for child in element:
        yield from _written(child)
        yield escape(child.tail or "")


def _attributes(element: ElementTree.Element) -> Iterator[str]:
    for key, value in element.attrib.items():
        if key in ("href", f"{{{XLINK}}}href"):
            if _WITHIN.fullmatch(value):
                yield f" xlink:href={quoteattr(value)}"
        elif re.fullmatch(r"[A-Za-z][\w-]*", key) and not key.lower().startswith("on") and not _LOADING.search(value):
            yield f" {key}={quoteattr(value)}"


def _local(tag: Any) -> str:
    """The name of an SVG element; empty for comments and for what is of another kind of document."""
    if not isinstance(tag, str):
        return ""
    space, _, name = tag.rpartition("}")
    return name if space in ("", f"{{{SVG}") else ""
