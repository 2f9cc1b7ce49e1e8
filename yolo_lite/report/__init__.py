"""What people look at: annotated images, tables and curves; knows numbers and images, not models."""
