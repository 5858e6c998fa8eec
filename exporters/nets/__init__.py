"""Networks as MindSpore cells, their parameters under torchvision's names."""
