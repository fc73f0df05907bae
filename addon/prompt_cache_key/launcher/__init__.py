"""The launcher: Claude Code through a proxy of its own, `claude-prompt-cache claude …`.

The launcher starts two processes. The proxy has a session of its own, so no key typed at the
terminal reaches it; its output goes to a log file. Claude Code stays in the launcher's process
group and has the terminal. The launcher waits for Claude Code, ends the proxy, and shows the
summary.

Two pipes connect the three:

- The proxy writes to the first: a line of JSON once it listens, and at its end the summary.
- Nobody writes to the second. Launcher and Claude Code hold its writing end, so the proxy reads
  its end of file when the last of them has ended, however that came about.

A summary, not flows, crosses the first pipe: the sums live in the proxy anyway and are complete,
while a file of flows grows by a whole prompt with each request. The report has the requests that
the live page has.
"""


class LaunchError(Exception):
    """Nothing was started; the message says why, and what to do."""
