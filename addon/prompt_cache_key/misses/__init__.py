"""Find the tokens that a prompt cache missed, and the cause."""
