from importlib.util import module_from_spec, spec_from_file_location

from lib import ADDON
from mitmproxy.test import taddons
from prompt_cache_key.hooks import PromptCacheKey


def test_script_has_the_addon() -> None:
    """Load the script as mitmproxy does: by its path, and never into sys.modules."""
    spec = spec_from_file_location("__mitmproxy_script__.addon", ADDON)
    assert spec
    assert spec.loader
    script = module_from_spec(spec)
    spec.loader.exec_module(script)
    (addon,) = script.addons
    assert isinstance(addon, PromptCacheKey)
    with taddons.context(script) as context:
        assert context.options.prompt_cache_ttl == "1h"
