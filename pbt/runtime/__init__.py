"""Where sweeps run: the brain, the hosts that obey it, and how members travel between them."""
