"""How well a network propagates guidance: metric, controls, interpolations without a network, and pictures."""
