"""EfficientNet-Lite, the built-in backbone: architecture, packaged weights, and its two writers."""
