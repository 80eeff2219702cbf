"""Models, optimizers and text that a model writes."""
