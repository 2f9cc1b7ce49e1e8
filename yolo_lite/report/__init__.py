"""What people look at: annotated pictures, tables and curves; knows numbers and pictures, not models."""
