"""What a backbone is worth: tasks that it was not trained for."""
