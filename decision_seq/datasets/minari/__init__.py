"""Minari datasets: found, fetched, read and written."""
