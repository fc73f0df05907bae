import logging
from collections.abc import Callable, Generator

import pytest
from hypothesis import HealthCheck, settings

# A busy machine is no failure: nothing here asserts on a duration. What examples leave open is for
# scripts/fuzz, which has the time for it.
settings.register_profile(
    "brief", deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile(
    "fuzz", settings.get_profile("brief"), max_examples=100, derandomize=False, print_blob=True
)
settings.load_profile("brief")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail a skipped test of real clients: where they are run, none may be missing."""
    report = yield
    if report.skipped and item.get_closest_marker("client"):
        report.outcome = "failed"
    return report


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Return what returns the addon's lines since it was last called, each with its level."""
    caplog.set_level(logging.DEBUG, "prompt_cache_key")

    def take() -> list[str]:
        lines = [f"{record.levelname} {record.getMessage()}" for record in caplog.records]
        caplog.clear()
        return lines

    return take
