"""The ranks, how they meet, and what runs underneath the loop."""
