"""The small concurrent programs that are explored exhaustively."""
