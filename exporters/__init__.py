"""The MindSpore side: networks, how each detector learns, and the files a device runs."""
