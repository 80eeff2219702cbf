"""Requests to stop, and what is left on record when something fails."""
