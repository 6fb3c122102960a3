"""An OpenID Connect provider: where it is, which keys it signs with, and what its tokens say."""
