"""Networks built from a model YAML."""
