"""The data contract: reading a user's tables, checking every row, and keeping count of all of them."""
