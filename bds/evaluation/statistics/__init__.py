"""The statistics of an evaluation, one subject a file. What cannot be computed is None, never NaN and never 0."""
