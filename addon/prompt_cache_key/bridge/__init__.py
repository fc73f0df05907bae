"""Find the Claude Code request that a translator's upstream call is made for."""
