"""The levels on which two records are compared: one module each, in the shape that `base` describes."""
