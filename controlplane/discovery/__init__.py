"""Where endpoints live: host names turned into addresses."""
