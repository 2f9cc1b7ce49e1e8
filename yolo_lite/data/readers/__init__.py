"""The readers of label files, one module a format; ``formats.FORMATS`` lists them."""
