"""What the posterior says: ArviZ container, evidence, decisions, diagnostics, pictures, report."""
