"""Workers, asked over HTTP which models they serve."""
