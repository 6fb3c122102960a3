"""Pure: picture files, read by their structure without decoding a pixel, stripped of metadata and labelled."""
