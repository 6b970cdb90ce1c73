"""Speed measurements: against peers, against the machine and against stated targets."""
