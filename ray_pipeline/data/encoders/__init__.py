"""One module for each kind of column: what is learned, and the two forms of how it is applied.

The NumPy and Arrow form makes training rows, the ONNX form serves; a property test holds them
equal on any row.
"""
