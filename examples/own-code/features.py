"""The features of a wine, computed alike for training and for serving."""

import numpy as np

COLUMNS = ("alcohol", "color_intensity", "hue")


def matrix(columns):
    """Return a row for each wine: its columns by name, and their products."""
    alcohol, color, hue = (np.asarray(columns[name], dtype=float) for name in COLUMNS)
    return np.stack([alcohol, color, hue, alcohol * color, color * hue], axis=1)
