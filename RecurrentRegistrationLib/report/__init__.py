"""What a registration leaves behind: its folder, its page, its sequence of steps."""
