"""From files to batches: index, reading, letterbox, augmentation, loader."""
