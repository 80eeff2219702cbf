"""The session file: its sections, how it is read, and every rule that it must keep."""
