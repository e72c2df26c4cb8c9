"""Several runs on the same samples: where they agree, which is better at what, and one set of labels out of them."""
