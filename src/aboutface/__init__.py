"""One photo of a face in, every view out."""

__version__ = "0.1.0"
