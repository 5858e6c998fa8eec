"""The levels on which two backends are compared, one module each."""
