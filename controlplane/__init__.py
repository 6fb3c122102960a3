"""Hueshift: serves Envoy its configuration over xDS and moves traffic between model versions on evidence."""
