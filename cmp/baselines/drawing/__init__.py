"""Images and animations that a baseline's run writes during validation, one file per kind of system.

Each function takes a model and a batch and returns uint8 RGB arrays by name: images (H, W, 3), animations (T, H, W, 3).
"""
