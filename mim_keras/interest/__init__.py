"""What a history says of a user's interest in a target: one layer each."""
