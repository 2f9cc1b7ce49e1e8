"""YAML on disk, frozen and validated objects in memory."""
