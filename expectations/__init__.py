"""Validation suites and the gate that runs them. Sees flat tables only and never imports fiftyone."""
