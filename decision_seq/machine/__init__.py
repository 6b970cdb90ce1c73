"""The machine: memory and its limits, processes and their cores."""
