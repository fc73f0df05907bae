"""docs/filter-and-keys.md shows the default filter, and a derived key as it is made."""

import json
import re
import uuid

from lib import ROOT
from prompt_cache_key.request.keys import derived_key
from prompt_cache_key.request.upstreams import DEFAULT_FILTER

PAGE = (ROOT / "docs" / "filter-and-keys.md").read_text("utf-8")


def test_the_default_filter() -> None:
    assert f"\n{DEFAULT_FILTER}\n" in PAGE


def test_the_example_of_a_derived_key() -> None:
    (text,) = re.findall(r"^uuid\.uuid5\(uuid\.NAMESPACE_URL, '(.*)'\)$", PAGE, re.MULTILINE)
    name = json.loads(text.removeprefix("prompt_cache_key:"))
    assert str(uuid.uuid5(uuid.NAMESPACE_URL, text)) == derived_key(tuple(name))
