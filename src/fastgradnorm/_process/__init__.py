"""What belongs to the whole process, and is put back."""
