"""valflow: a Verified Auto-Labeling pipeline for FiftyOne datasets."""

__version__ = "0.1.0"
