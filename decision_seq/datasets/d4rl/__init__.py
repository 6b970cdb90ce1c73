"""D4RL: its files (files.tsv), and the flat layout in which they hold transitions."""
