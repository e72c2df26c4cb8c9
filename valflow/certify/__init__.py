"""What a random audit proves about the labels that nobody looked at."""
