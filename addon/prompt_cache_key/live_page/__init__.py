"""The live page that the listeners serve."""
