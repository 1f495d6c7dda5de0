"""The replicated store: documents that merge, of signed entries."""
