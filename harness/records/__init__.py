"""Records of measured cases and the files beside them."""
