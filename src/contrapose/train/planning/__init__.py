"""What a run will take, before anyone rents anything."""
