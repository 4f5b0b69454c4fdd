"""XML texts of unknown origin -> their elements."""

from __future__ import annotations

from xml.etree.ElementTree import Element, ParseError, fromstring

MOST_XML_BYTES = 50 * 2**20
MOST_XML_VALUES = 2_000_000  # elements and attributes: 500 MB of memory


def parsed(text: str) -> Element:
    """The root element.

    Raises:
        ValueError: not XML, too much of it, or with a document type, whose entities can make a small file huge.
    """
    if "<!DOCTYPE" in text:
        raise ValueError("XML with a document type, which no annotation needs")
    if text.count("<") + text.count("=") > MOST_XML_VALUES:
        raise ValueError(f"XML of more than {MOST_XML_VALUES:,} values")
    try:
        return fromstring(text)
    except ParseError:
        raise ValueError("not XML") from None


def text_of(element: Element, path: str) -> str:
    """The text below an element, without spaces around it; empty where there is none."""
    return (element.findtext(path) or "").strip()
