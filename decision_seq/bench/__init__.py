"""Speed, measured: against peers, against the machine, and against what was promised."""
