"""The one addon of this process.

mitmproxy runs a script again when its file is touched, but not the modules that it imports: so the
keys, and the streams that pass by, outlive that.
"""

from prompt_cache_key.hooks import PromptCacheKey

addons = [PromptCacheKey()]
