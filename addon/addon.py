"""The script for `mitmdump -s`: loads the package that lies beside this file.

mitmproxy puts this file's folder on `sys.path`, so a clone needs no installation.
"""

from prompt_cache_key.script import addons

__all__ = ["addons"]
