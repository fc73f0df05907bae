"""Requests and responses that pass through the proxy in chunks."""
