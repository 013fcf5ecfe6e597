"""What is kept of a sweep: the ledger, and its mirror in MLflow."""

import os

# MLflow reads this when it is imported. A trainer has no business telling anyone that it was used.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
