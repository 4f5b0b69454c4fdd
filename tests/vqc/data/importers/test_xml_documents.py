"""XML from anywhere: elements, or a sentence."""

from __future__ import annotations

import pytest

from vqc.data.importers.xml_documents import MOST_XML_VALUES, parsed

BOMB = '<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]><a>&b;</a>'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOMB, "document type"),
        ('<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>', "document type"),
        ("<a>", "not XML"),
        ("<a>&b;</a>", "not XML"),
        ("", "not XML"),
        ("<a" + " b=''" * MOST_XML_VALUES + "/>", "more than 2,000,000 values"),
    ],
)
def test_what_is_dangerous_or_broken_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parsed(text)


def test_the_declared_encoding_does_not_matter() -> None:
    assert parsed('<?xml version="1.0" encoding="utf-16"?><a>ä</a>').text == "ä"
