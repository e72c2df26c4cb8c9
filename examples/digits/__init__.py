"""The demo: real handwritten digits on synthetic sheets, and a small detector that makes real mistakes."""
