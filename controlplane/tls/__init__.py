"""Certificates and identities: what the channel to Envoys and the listeners' certificates have in common."""
