"""SQL, the only truth: one adapter for every port that remembers something."""
