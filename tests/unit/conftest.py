from collections.abc import Iterator

import pytest
from unit.context import Context, addon_context


@pytest.fixture
def context() -> Iterator[Context]:
    """Return the addon in a test context."""
    with addon_context() as made:
        yield made
