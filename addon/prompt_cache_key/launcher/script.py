"""The addons of a launcher's proxy."""

from prompt_cache_key.hooks import PromptCacheKey
from prompt_cache_key.launcher import proxy

_addon = PromptCacheKey()
addons: list[object] = [_addon]
if proxy.task:
    addons.append(proxy.Supervised(_addon, proxy.task))
