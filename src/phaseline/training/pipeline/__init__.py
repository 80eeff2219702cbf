"""The whole run: who it is, what it is configured to do, and the order of its steps."""
