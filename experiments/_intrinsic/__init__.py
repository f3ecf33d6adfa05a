"""How many numbers does a task take? Units, the search for d90, its estimate and its report."""
