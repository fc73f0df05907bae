"""What a prompt should have got from the cache, what it got, and why it was less."""
