"""What came back: the coding undone, the usage read, a rejection told from other errors."""
