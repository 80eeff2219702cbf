"""What is recorded and shown: records, display, wandb, report."""
