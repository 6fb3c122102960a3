"""Pure: picture files read by their structure, without decoding a pixel: what they are, and the same without or with metadata."""
