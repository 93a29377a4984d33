"""What makes the tables of methods in the documents; not part of the package."""
