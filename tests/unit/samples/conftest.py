"""Samples are programs of an image, not packages of ours: their folder is put on the path for these tests."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3] / "samples"))
