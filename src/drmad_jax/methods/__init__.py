"""What a user picks: a file a family, factory and value together."""
