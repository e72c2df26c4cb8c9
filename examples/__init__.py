"""Examples that run: each is read as an article and executed by the tests."""
