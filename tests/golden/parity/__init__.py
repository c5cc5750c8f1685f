"""What the published package computes, with random weights in published sizes."""

from pathlib import Path

FOLDER = Path(__file__).parent
