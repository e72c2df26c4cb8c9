"""What valflow costs, side by side with the ways people know."""
