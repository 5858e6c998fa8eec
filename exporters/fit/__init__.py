"""How each detector learns from good images."""
