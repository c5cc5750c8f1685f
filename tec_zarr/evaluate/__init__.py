"""Measuring rate, distortion and speed beside what a user has today.

`baselines` and `plots` need the extra `evaluate`.
"""
