"""What the documentation shows does what it says."""
