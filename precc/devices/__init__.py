"""What devices do in a second: measured, fitted, published, and in files."""
