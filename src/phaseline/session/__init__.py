"""The session directory: layout, attempts, lease, records, and reading them. No torch."""
