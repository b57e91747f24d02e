"""Files as they are written: JSON that every program can read."""

import json
import math

from pyramid.disk import as_json, write_json


def test_what_json_has_no_word_for_is_null(tmp_path):
    value = {"a": math.nan, "b": [1.5, (math.inf, -math.inf)], "c": {"d": "NaN", "e": True, "f": None}}
    told = {"a": None, "b": [1.5, [None, None]], "c": {"d": "NaN", "e": True, "f": None}}
    path = tmp_path / "new" / "told.json"
    write_json(path, value)
    assert json.loads(path.read_text(), parse_constant=lambda word: word) == told
    assert path.read_text() == as_json(value) + "\n"
