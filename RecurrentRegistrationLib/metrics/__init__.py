"""What a registration is judged by."""
