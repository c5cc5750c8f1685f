"""Entropy coding with integer tables: what is written on one machine is read on any other."""
