"""Read token usage from responses."""
