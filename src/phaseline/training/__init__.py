"""The pipeline over phases, and one phase."""
