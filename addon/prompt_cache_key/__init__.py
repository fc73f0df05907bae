"""One stable `prompt_cache_key` for each Claude Code session, put in by mitmproxy."""

__version__ = "0.1.0"
