"""The addons of a launcher's proxy."""

from prompt_cache_key.hooks import PromptCacheKey
from prompt_cache_key.launcher import proxy_main

_addon = PromptCacheKey()
addons: list[object] = [_addon]
if proxy_main.task:
    addons.append(proxy_main.Supervised(_addon, proxy_main.task))
