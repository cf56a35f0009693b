"""What is known of conversations, and how they are made to fit the window."""
