"""Speed, measured: against peers, and against what was promised."""
