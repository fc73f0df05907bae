"""Recognise and remember endpoints that reject a field."""
