"""What decides about schedules: sampled, exhaustive, replayed."""
