"""What is kept of a sweep: the ledger, and its mirror in MLflow."""
