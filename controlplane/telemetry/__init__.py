"""What Envoy measures, turned into counts and latency histograms per version and tick."""
