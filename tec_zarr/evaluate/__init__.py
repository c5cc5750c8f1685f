"""Measuring rate, distortion and speed beside what a user has today.

`baselines`, `klt` and `plots` need the extra `evaluate`, `hevc` the extra `hevc`.
"""
