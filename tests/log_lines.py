"""Read the log lines of the addon, so that tests match them by their fields."""

import json
import re

_FIELD = re.compile(r'(\w+)=("(?:[^"\\]|\\.)*"|\S+)')


def fields(line: str) -> dict[str, str]:
    """Return the fields of a log line, `name=value` each, without quotes and escapes."""
    found = _FIELD.findall(line)
    return {name: json.loads(value) if value[0] == '"' else value for name, value in found}
