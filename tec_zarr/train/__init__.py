"""Training of TEC models and their export to artifacts."""
