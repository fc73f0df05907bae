from importlib.util import module_from_spec, spec_from_file_location

import pytest
from prompt_cache_key.hooks import PromptCacheKey
from prompt_cache_key.launcher import launch, proxy_main
from prompt_cache_key.launcher.task import Task


def addons() -> list[object]:
    """Load the script as mitmproxy does: by its path, and never into sys.modules."""
    spec = spec_from_file_location("__mitmproxy_script__.script", launch._SCRIPT)
    assert spec
    assert spec.loader
    script = module_from_spec(spec)
    spec.loader.exec_module(script)
    return list(script.addons)


def test_a_proxy_of_a_launcher_is_supervised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy_main, "task", Task([], "", "", [], is_stable=False))
    addon, supervised = addons()
    assert isinstance(addon, PromptCacheKey)
    assert isinstance(supervised, proxy_main.Supervised)


def test_any_other_is_not() -> None:
    assert len(addons()) == 1
