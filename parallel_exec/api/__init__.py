"""What users call: a few lines each over the engine."""
