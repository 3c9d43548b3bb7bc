"""Matplotlib's figures as SVG that belongs to a page: its colors, its text, a name for screen readers."""

import io
import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from markupsafe import Markup

from asc.report.palette import LIGHT
from asc.report.plot import without_glyph_warnings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
NAMES = {color: name for name, color in LIGHT.items()}


def inline_svg(figure: "Figure", name: str, description: str) -> Markup:
    """An <svg> element to stand in a page; the colors of `LIGHT` become the page's variables, as in var(--ink).

    Args:
        figure: of matplotlib.
        name: unique in the page; begins the ids.
        description: what it shows, for who does not see it.
    """
    from matplotlib import rc_context

    file = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}), without_glyph_warnings():
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    root = ElementTree.fromstring(file.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style"):
                parent.remove(child)
    for element in root.iter():
        for key in ("width", "height") if element is root else ():
            del element.attrib[key]
        for key, value in list(element.attrib.items()):
            element.set(key, in_page(key, value, name))
    root.attrib |= {"role": "img", "class": "plot", "aria-label": description}
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def in_page(key: str, value: str, name: str) -> str:
    """An attribute with colors as variables, the page's font, and ids that begin with `name`."""
    if key == "id":
        return f"{name}-{value}"
    value = re.sub(r"^#|url\(#", lambda match: f"{match[0]}{name}-", value) if "#" in value else value
    if key == "style":
        value = re.sub(r"#[0-9a-f]{6}\b", lambda match: f"var(--{NAMES.get(match[0], 'ink')})", value)
        value = re.sub(r"font-family: [^;]*;? ?", "", value)
    return value
