from importlib.util import module_from_spec, spec_from_file_location

from lib import ADDON
from mitmproxy.test import taddons
from prompt_cache_key.hooks import PromptCacheKey


def test_script_has_the_same_addon_each_time() -> None:
    """Load the script as mitmproxy does: by its path, and never into sys.modules."""
    found = []
    for _ in range(2):
        spec = spec_from_file_location("__mitmproxy_script__.addon", ADDON)
        assert spec
        assert spec.loader
        script = module_from_spec(spec)
        spec.loader.exec_module(script)
        found += script.addons
        with taddons.context(script) as context:
            assert context.options.prompt_cache_ttl == "1h"
            context.master.addons.remove(script)
    assert isinstance(found[0], PromptCacheKey)
    assert found[0] is found[1]
