"""Checkpoints: one portable format for every engine, published whole or not at all."""
