"""A document comes back to the letter, whatever its file looks like."""

from __future__ import annotations

import json

import pytest
from bot_session.testing.contract.values import DOCUMENTS
from hypothesis import example, given
from hypothesis import strategies as st

from bot_session_storage_file._document import Document, parse, render, require_json

names = st.sampled_from(["v", "__d", "e", "x"])
data = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4),
    max_leaves=8,
)
styles = st.sampled_from([{}, {"indent": "\t"}, {"indent": 1}, {"separators": (",", ":")}, {"ensure_ascii": False}])
documents = st.builds(lambda value, style: json.dumps(value, **style), data, styles) | st.sampled_from(
    [*DOCUMENTS.values()]
)


@given(documents, st.none() | st.integers(1, 8_000_000_000_000_000), st.booleans())
@example('{"__d":1,"e":5}', None, False)
@example('{"v":1,"__d":1,"e":5}', 7, False)
@example('{"v":1,"__d":{"e":5}}', 7, True)
@example('{"__d":{\n\t"a": 1\n},"e":5}', None, True)
@example(' {"__d":1} ', 7, False)
@example('{"v":1,"__d": 1 }', 7, False)
@example('{"e": 5, "__d": 1}\n', None, False)
@example('{\n  "v": 1,\n  "__d": {"e": 5}\n}', 7, False)
def test_what_is_written_is_what_is_read(value: str, expires: int | None, tabs: bool) -> None:
    assert (value, expires) == parse(render(value, expires, tabs=tabs))[:2]


@pytest.mark.parametrize(("value", "expires", "content"), [
    ('{"n":1}', None, '{"n":1}'),
    ('{"n":1}', 1700000000000, '{"__d":{"n":1},"e":1700000000000}'),
    ('{"v":12,"__d":{"n":1}}', None, '{"v":12,"__d":{"n":1}}'),
    ('{"v":12,"__d":{"n":1}}', 1700000000000, '{"v":12,"__d":{"n":1},"e":1700000000000}'),
    ('{"__d":{"n":1}}', 1700000000000, '{"__d":{"__d":{"n":1}},"e":1700000000000}'),
    ('{"__d":1,"e":5}', None, '{"__d":{"__d":1,"e":5},"e":8640000000000000}'),
])  # fmt: skip
def test_a_file_holds_the_forms_that_grammy_reads(value: str, expires: int | None, content: str) -> None:
    assert content.encode() == render(value, expires, tabs=False)


@given(data)
@example({"count": 1, "list": [1, {"x": []}], "empty": {}, "text": "a\n\tb"})
def test_what_grammy_indents_is_read_compact_and_written_back_as_grammy_would(value: object) -> None:
    tabbed = json.dumps(value, indent="\t", ensure_ascii=False)
    compact = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    indented = tabbed != compact
    plain = json.dumps({"x": value}, indent="\t", ensure_ascii=False).encode()  # which no document is mistaken for

    assert Document(f'{{"x":{compact}}}', None, True) == parse(plain)
    assert plain == render(f'{{"x":{compact}}}', None, tabs=True)
    assert indented or parse(tabbed.encode()) == Document(compact, None, False)


def test_indented_envelopes_keep_their_tabs_and_their_expiry() -> None:
    content = b'{\n\t"v": 2,\n\t"__d": {\n\t\t"n": 1\n\t},\n\t"e": 1700000000000\n}'

    assert parse(content) == Document('{"v":2,"__d":{"n":1}}', 1700000000000, True)
    assert render('{"v":2,"__d":{"n":1}}', 1700000000000, tabs=True) == content


@pytest.mark.parametrize(("content", "value"), [
    ('{"__d":{"n":1},"e":5}\n', '{"n":1}'),
    ('{"__d": {"n": 1}, "e": 5}', '{"n": 1}'),
    ('{\n  "__d": "é",\n  "e": 5.0\n}\n', '"é"'),
    ('{"e": 5, "v": 1e0, "__d": [ 1 ]}', '{"v":1e0,"__d":[ 1 ]}'),
    ('{\r\n\t"v": 2,\r\n\t"__d": 1,\r\n\t"e": 5\r\n}', '{"v":2,"__d":1}'),
])  # fmt: skip
def test_an_envelope_that_somebody_has_edited_is_still_an_envelope(content: str, value: str) -> None:
    assert Document(value, 5, False) == parse(content.encode())


@pytest.mark.parametrize("content", [
    '{"__d":1}', '{"__d":1,"e":null}', '{"__d":1,"e":"5"}', '{"__d":1,"e":true}', '{"__d":1,"x":2,"e":5}',
    '{"v":"a","__d":1,"e":5}', '{"v": null, "__d": 1, "e": 5}', '{"v": true, "__d": 1, "e": 5}', '["__d", "e"]',
    '{"__d": 1, "x": 2, "e": 5}', '{"x":"\\"__d\\":1,\\"e\\":5"}', '["__d",1,"e",5]',
])  # fmt: skip
def test_what_only_resembles_an_envelope_is_a_document(content: str) -> None:
    assert parse(content.encode()) == Document(content, None, False)


@pytest.mark.parametrize("content", [b"", b" ", b'{"a":1', b"\xff", b"[NaN]", b"nul", b'"\xe9"', b"{}{}", b"01"])
def test_what_is_no_json_is_an_error(content: bytes) -> None:
    with pytest.raises(ValueError):
        parse(content)


def test_deeply_nested_json_is_json() -> None:
    require_json("[" * 100_000 + "]" * 100_000)
