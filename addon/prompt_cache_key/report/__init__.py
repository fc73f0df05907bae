"""The report: saved flows, page and command."""
